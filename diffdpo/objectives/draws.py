"""The random part of a training example: timestep, noise, posterior noise, caption dropout, crop and mirror image.

Every draw is a function of (seed, pair id, index of the draw) and of nothing else: a resumed run, another batch size
or another number of processes repeats them, and no two processes ever share them by accident. Stratified timesteps are
one of (seed, place in the endless sequence of examples), which is as free of all that.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

GOLDEN = (math.sqrt(5) - 1) / 2


class Draws(NamedTuple):
    """What is drawn for a batch of pairs. Winner and loser share `timesteps` and `noise`.

    Attributes:
        timesteps: [B] int64 in 0..T-1, uniform unless a power is given.
        noise: [B, c, h, w] float32.
        posterior_w, posterior_l: [B, c, h, w] float32, for sampling the autoencoder's posterior.
        dropped: [B] float32, uniform on [0, 1); the caption is left out where it is below the dropout rate.
    """

    timesteps: Tensor
    noise: Tensor
    posterior_w: Tensor
    posterior_l: Tensor
    dropped: Tensor


def draw(
    seed: int,
    pair_ids: Sequence[str],
    indices: Sequence[int],
    shape: tuple[int, int, int],
    n_timesteps: int,
    *,
    timestep_power: float = 1.0,
    levels: Tensor | None = None,
    antithetic: bool = False,
) -> Draws:
    """The draws of some pairs, on the CPU.

    Args:
        indices: which draw of its pair, [B]; in training the epoch.
        shape: c, h, w of a latent.
        timestep_power: the density of a timestep t is proportional to t^(power - 1): 1 is uniform, as in the paper;
            above 1 the noisy steps, where a picture's composition is settled, come more often.
        levels: [B] float64 in [0, 1), such as `spread` gives: where the timesteps lie, in place of draws of their own.
        antithetic: the noise of an odd index is that of the index before, with the other sign.
    """
    rows = [_row(seed, *which, shape, n_timesteps, antithetic) for which in zip(pair_ids, indices, strict=True)]
    draws = Draws(*(torch.stack(column) for column in zip(*rows, strict=True)))
    if timestep_power == 1 and levels is None:
        return draws
    uniform = (draws.timesteps.double() + 0.5) / n_timesteps if levels is None else levels
    timesteps = (n_timesteps * uniform ** (1 / timestep_power)).long()
    return draws._replace(timesteps=timesteps.clamp(max=n_timesteps - 1))


def spread(seed: int, places: Sequence[int]) -> Tensor:
    """Points of [0, 1), [B] float64, of which any that follow each other lie evenly.

    They are the multiples of the golden ratio without their whole part (a Kronecker sequence), from an offset that the
    seed draws. With places of the endless sequence of examples every batch is stratified, whatever its size.
    """
    offset = derived_seed("spread", seed) / 2**63
    return torch.tensor([(offset + place * GOLDEN) % 1.0 for place in places], dtype=torch.float64)


def _row(
    seed: int, pair_id: str, index: int, shape: tuple[int, int, int], n_timesteps: int, antithetic: bool
) -> tuple[Tensor, ...]:
    """One pair's draws, in the order of `Draws`."""
    generator = torch.Generator("cpu").manual_seed(derived_seed(seed, pair_id, index))
    timestep = torch.randint(n_timesteps, (), generator=generator)
    dropped = torch.rand((), generator=generator)
    noise, posterior_w, posterior_l = torch.randn(3, *shape, generator=generator)
    if antithetic and index % 2:
        noise = -_row(seed, pair_id, index - 1, shape, n_timesteps, antithetic)[1]
    return timestep, noise, posterior_w, posterior_l, dropped


def draw_view(seed: int, pair_id: str, index: int, n_views: int) -> int:
    """Which of a pair's crops and mirror images is seen, uniform on 0..n_views-1; one for its two images."""
    return derived_seed("view", seed, pair_id, index) % n_views


def derived_seed(*parts: object) -> int:
    """A 63-bit seed from anything that prints: distinct parts give independent streams."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1
