"""Shards of tensors in a folder: each written whole or not at all, and read through a memory map.

All shards of a kind hold equally many rows but for the last, so that a row is found without an index.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from diffdpo.errors import UserError
from diffdpo.progress import Advance
from diffdpo.runs import write_bytes

ROWS = 256
"""At most so many rows in a shard,"""
BYTES = 150_000_000
"""and about so many bytes: a shard is put together in memory, which takes about four times its size."""

Rows = dict[str, Tensor]
"""Tensors [n, ...] by name; those that stand for only some of the rows are shorter."""


class Shards:
    """The shards `<kind>-00000.safetensors`, ... of a folder."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self.kind = kind
        self._open: dict[int, Rows] = {}

    @cached_property
    def rows_each(self) -> int:
        """Rows of every shard but the last."""
        return _length(self[0])

    def at(self, index: int) -> tuple[Rows, int]:
        """The shard that row `index` is in, and its place there."""
        number, row = divmod(index, self.rows_each)
        return self[number], row

    def __getitem__(self, number: int) -> Rows:
        """A shard's tensors, memory-mapped: pages are read when touched and the system may drop them."""
        if number not in self._open:
            path = self._path(number)
            try:
                self._open[number] = load_file(path)
            except (SafetensorError, OSError) as error:
                raise UserError(f"{path}: missing or damaged ({error}); remove the folder to encode again") from None
        return self._open[number]

    def fill(self, items: Sequence[Any], batch: int, encode: Callable[[Sequence[Any]], Rows], advance: Advance) -> None:
        """Write the shards that are missing.

        Args:
            items: one per row.
            batch: as many are handed to `encode` at a time, fewer at a shard's end.
        """
        each = self.rows_each if self._path(0).exists() else None
        start = number = 0
        while start < len(items):
            if each is None or not self._path(number).exists():
                each = self._write(number, items[start:], each, batch, encode, advance)
            else:
                advance(len(items[start : start + each]))
            start, number = start + each, number + 1

    def _write(
        self,
        number: int,
        items: Sequence[Any],
        each: int | None,
        batch: int,
        encode: Callable[[Sequence[Any]], Rows],
        advance: Advance,
    ) -> int:
        """Write one shard from the first of `items`. Returns the rows of a whole one, settled by the first batch."""
        parts: list[Rows] = []
        done = 0
        while done < min(each or ROWS, len(items)):
            some = items[done : min(done + batch, each or ROWS)]
            parts.append(encode(some))
            each = each or rows_that_fit(parts[0])
            done += len(some)
            advance(len(some))
        write_bytes(self._path(number), save(joined(parts)))
        return each or ROWS

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.kind}-{number:05d}.safetensors"


def rows_that_fit(rows: Mapping[str, Tensor]) -> int:
    """How many rows like these make a shard; never fewer than these."""
    length = _length(rows)
    bytes_each = sum(tensor.nbytes for tensor in rows.values()) / length
    return max(length, min(ROWS, int(BYTES // bytes_each)))


def joined(parts: Sequence[Mapping[str, Tensor]]) -> Rows:
    """Parts one after the other, each name by itself."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: torch.cat([part[name] for part in parts if name in part]) for name in names}


def _length(rows: Mapping[str, Tensor]) -> int:
    return max(len(tensor) for tensor in rows.values())
