"""Tensors in safetensors files, each process's part in a file of its own, read back by any number of processes.

A key is `name@row`: the rows from `row` on of the tensor `name`, as many as the piece has. Without `@` it is all of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from diffdpo.training.sharding import first_row, in_rows, local, parted_like, whole


def own_pieces(tensors: Mapping[str, Tensor], process: int, n_processes: int) -> dict[str, Tensor]:
    """What one of several processes writes of some tensors, on the CPU. All of them must ask.

    Of a tensor in parts it is the own one; whole ones are dealt out in turn.
    """
    pieces: dict[str, Tensor] = {}
    for number, (name, tensor) in enumerate(tensors.items()):
        if in_rows(tensor):
            part, row, mine = local(tensor), first_row(tensor), len(local(tensor)) > 0
        else:
            part, row, mine = whole(tensor), 0, number % n_processes == process
        if mine:
            pieces[f"{name}@{row}"] = part.cpu().contiguous()
    return pieces


class Pieces:
    """Tensors by name, put together from the pieces in some files, or given whole. Only what is asked for is read.

    Raises:
        SafetensorError: a file is none.
    """

    def __init__(self, files: Sequence[Path], given: Mapping[str, Tensor] | None = None) -> None:
        found: dict[str, dict[int, Any]] = defaultdict(dict)
        for path in files:
            file: Any = safe_open(path, "pt")
            for key in file.keys():  # noqa: SIM118
                name, _, row = key.partition("@")
                found[name][int(row or 0)] = _Piece(file, key)
        for name, tensor in (given or {}).items():
            found[name][0] = tensor
        self._found = {name: [(row, found[name][row]) for row in sorted(found[name])] for name in sorted(found)}

    def names(self) -> list[str]:
        return list(self._found)

    def read(self, name: str) -> Tensor:
        """All of a tensor, on the CPU."""
        pieces = self._found[name]
        return torch.cat([piece[:] for _, piece in pieces]) if len(pieces) > 1 else pieces[0][1][...]

    def read_into(self, target: Tensor, name: str) -> None:
        """Fill this process's part of `target` with the same rows of a tensor."""
        part, start = local(target), first_row(target)
        if not part.dim():
            part.copy_(self.read(name))
            return
        for row, piece in self._found[name]:
            first, end = max(start, row), min(start + len(part), row + piece.shape[0])
            if first < end:
                part[first - start : end - start].copy_(piece[first - row : end - row])

    def read_like(self, name: str, pattern: Tensor) -> Tensor:
        """A tensor in its own dtype, laid out and parted as `pattern` is, if it is as large; else all of it."""
        if self._shape(name) != pattern.shape:
            return self.read(name)
        made = parted_like(torch.empty_like(local(pattern), dtype=self._found[name][0][1].dtype), pattern)
        self.read_into(made, name)
        return made

    def _shape(self, name: str) -> torch.Size:
        row, last = self._found[name][-1]
        return torch.Size([row + last.shape[0], *last.shape[1:]]) if last.shape else torch.Size(last.shape)


class _Piece:
    """A tensor in a file, of which slices are read as of one in memory."""

    def __init__(self, file: Any, key: str) -> None:
        self._file, self._key = file, key
        self.shape = tuple(file.get_slice(key).get_shape())

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self[:0].dtype if self.shape else self[...].dtype
        return dtype

    def __getitem__(self, rows: Any) -> Tensor:
        found: Tensor = self._file.get_tensor(self._key) if rows is ... else self._file.get_slice(self._key)[rows]
        return found
