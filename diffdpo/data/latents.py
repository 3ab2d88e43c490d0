"""The cache of encoded triplets: image latents and prompt conditioning, made once and shared by all runs.

It is built by two functions handed in and knows no model. Beside the latents it keeps what a trainer needs of
every pair. One folder per (store content, encoder, dtype, framing), in shards that are read through memory maps.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from diffdpo.data.encoding import BUCKET, EncodeImages, EncodePrompts, Encoding, distinct, of_bucket
from diffdpo.data.framing import Framing, Size
from diffdpo.data.shards import Rows, Shards
from diffdpo.data.triplets import TripletStore
from diffdpo.errors import UserError, unknown
from diffdpo.locks import alone
from diffdpo.runs import claim

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Batch:
    """B encoded pairs. Floating-point tensors are float32, whatever the cache stores."""

    mean_w: Tensor
    """[B, C, H, W] posterior mean of the chosen images, scaled."""
    std_w: Tensor
    mean_l: Tensor
    """[B, C, H, W] of the rejected ones."""
    std_l: Tensor
    conditioning: dict[str, Tensor]
    """[B, ...] by name."""
    unconditional: dict[str, Tensor]
    """[B, ...] that of the empty prompt, for caption dropout."""
    sizes: Tensor
    """[B, 2, 4] int64, pixels: height and width of the chosen and the rejected image as stored, then top and
    left of the crop after the resize."""
    pair_ids: list[str]
    ties: Tensor
    """[B] bool."""
    margins: Tensor
    """[B] float32, NaN where unknown."""

    def to(self, device: str | torch.device) -> Batch:
        """The same batch with its tensors on `device`."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The same batch in memory from which a GPU takes it while others go on."""
        return self._with(torch.Tensor.pin_memory)

    def _with(self, move: Callable[[Tensor], Tensor]) -> Batch:
        def moved(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: moved(tensor) for name, tensor in value.items()}
            return move(value) if isinstance(value, Tensor) else value

        return replace(self, **{field.name: moved(getattr(self, field.name)) for field in fields(self)})


class LatentCache:
    """The encoded triplets of one store, in the store's order; index with the store's indices.

    Attributes:
        pair_ids, ties [N] bool, margins [N] float32: as the store has them.
        n_views: ways in which every pair can be seen; see `Framing`.
    """

    def __init__(self, folder: Path, store: TripletStore, framing: Framing) -> None:
        self.folder = folder
        self.pair_ids = store.pair_ids
        self.ties = torch.from_numpy(store.ties)
        self.margins = torch.from_numpy(store.margins).float()
        self.n_views = framing.n_views
        self._framing = framing
        self._rows, self._prompts = distinct(store.captions)
        self._pairs, self._conditioning = Shards(folder, "latents"), Shards(folder, "prompts")

    @classmethod
    def open_or_build(
        cls,
        root: str | Path,
        store: TripletStore,
        *,
        encode_images: EncodeImages,
        encode_prompts: EncodePrompts,
        encoder: Mapping[str, Any],
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        framing: Framing | None = None,
        batch_size: int = 8,
    ) -> LatentCache:
        """The cache of `store` below `root`: opened if there, gone on with if half done, built otherwise.

        The encoding functions are only called for what is missing. A second process that wants the same cache
        waits for the first. Building holds one shard in memory.

        Args:
            encoder: all that decides what the encoding functions return (model, its content hash, ...), in
                JSON values.
            framing: what is done to the images; None takes them as they are. Without a size in it all must have one.
            batch_size: pairs encoded at a time.

        Raises:
            UserError: an image cannot be opened, images differ in size, the store is empty.
        """
        if dtype not in DTYPES:
            raise unknown("dtype", dtype, DTYPES)
        if len(store) == 0:
            raise UserError(f"{store.folder}: no triplets in it, so there is nothing to encode")
        framing = framing or Framing()
        made_of = {"store": store.fingerprint(), "encoder": dict(encoder), "dtype": dtype, **framing.identity()}
        key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
        cache = cls(Path(root) / key, store, framing)
        cache.folder.mkdir(parents=True, exist_ok=True)
        with alone(cache.folder, wait=True):
            _remove_partial(cache.folder)
            run = claim(cache.folder, "latents", made_of)
            if run.state != "complete":
                encoding = Encoding(store, framing, encode_images, encode_prompts, DTYPES[dtype], batch_size)
                encoding.prompts(cache._conditioning, cache._prompts)
                encoding.latents(cache._pairs)
                run.finish({"pairs": len(store), "prompts": len(cache._prompts)})
        return cache

    def __len__(self) -> int:
        return len(self.pair_ids)

    @cached_property
    def buckets(self) -> list[Size] | None:
        """Of every pair the width and height that it was brought to; None where all have the same."""
        return [bucket for bucket, _ in self._places] if self._framing.step else None

    def batch(self, indices: Sequence[int], views: Sequence[int] | None = None) -> Batch:
        """The pairs at `indices`, of one bucket, on the CPU.

        Args:
            views: which view of each pair, in 0..n_views-1; None is the first of all.
        """
        seen = views or [0] * len(indices)
        latents = _stack([self._latents_at(index, view) for index, view in zip(indices, seen, strict=True)])
        mean, std = latents["mean"], latents["std"]
        prompts = [self._conditioning_at(self._rows[index]) for index in indices]
        which = torch.tensor(indices)
        return Batch(
            mean_w=mean[:, 0],
            std_w=std[:, 0],
            mean_l=mean[:, 1],
            std_l=std[:, 1],
            conditioning=_stack(prompts),
            unconditional=_stack([self._conditioning_at(0)] * len(prompts)),
            sizes=latents["sizes"],
            pair_ids=[self.pair_ids[index] for index in indices],
            ties=self.ties[which],
            margins=self.margins[which],
        )

    def _latents_at(self, index: int, view: int) -> Rows:
        """`mean` and `std` [2, C, H, W] and `sizes` [2, 4] of a pair."""
        tensors, row = self._pairs.at(range(len(self))[index])
        of = ""
        if self._framing.step:
            bucket, row = self._places[index]
            of = of_bucket(bucket)
        pair = slice(2 * view, 2 * view + 2)
        return {name: tensors[name + of][row, pair] for name in ("mean", "std", "sizes")}

    @cached_property
    def _places(self) -> list[tuple[Size, int]]:
        """With buckets: of every pair its bucket, and its row among the pairs of that bucket in its shard."""
        found: list[tuple[Size, int]] = []
        while len(found) < len(self):
            shard, _ = self._pairs.at(len(found))
            taken: Counter[Size] = Counter()
            for width, height in shard[BUCKET].tolist():
                found.append(((width, height), taken[width, height]))
                taken[width, height] += 1
        return found

    def _conditioning_at(self, prompt: int) -> Rows:
        tensors, row = self._conditioning.at(prompt)
        return {name: tensor[row] for name, tensor in tensors.items()}


def _stack(rows: Sequence[Mapping[str, Tensor]]) -> Rows:
    return {name: _plain(torch.stack([row[name] for row in rows])) for name in rows[0]}


def _plain(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _remove_partial(folder: Path) -> None:
    for path in folder.glob("*.partial"):
        path.unlink()
