"""Pictures to train on, as tensors. Only train-side combinations ever come out of here unless asked otherwise."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from diffdpo.shapes.damage import SLOPPY, damage
from diffdpo.shapes.render import Pixels, render
from diffdpo.shapes.scene import Scene, split_scenes

ONE_THING_SHARE = 0.12
"""How often a drawn scene has a single thing (they are few among all scenes)."""


def draw_scene(rng: np.random.Generator, *, held_out: bool = False) -> Scene:
    """A random scene of one side of the split."""
    scenes = _scenes_of(1 if rng.random() < ONE_THING_SHARE else 2, held_out)
    return scenes[int(rng.integers(len(scenes)))]


@cache
def _scenes_of(n_things: int, held_out: bool) -> tuple[Scene, ...]:
    return tuple(scene for scene in split_scenes(held_out=held_out) if len(scene.things) == n_things)


def careful_or_sloppy(scene: Scene, rng: np.random.Generator, sloppy_share: float) -> Pixels:
    return damage(scene, rng, SLOPPY) if rng.random() < sloppy_share else render(scene, rng)


def to_tensor(pictures: list[Pixels]) -> Tensor:
    """Pictures [SIZE, SIZE, 3] in [0, 1] to one [B, 3, SIZE, SIZE] tensor in [-1, 1], with 8 bits as in files."""
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return (stacked * 255).round() / 127.5 - 1
