"""The reference's errors, computed before training and kept on disk: two numbers per pair and draw.

They do not depend on beta, loss, learning rate or batch size, so that runs which differ in those share them, and
while training no reference is in memory. Kept in the order in which training asks for them (`Order`), in shards; a
longer run computes what is missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from diffdpo.errors import UserError
from diffdpo.locks import alone
from diffdpo.progress import progress
from diffdpo.runs import write_bytes, write_json
from diffdpo.training.order import BucketOrder, Order

Examples = Sequence[tuple[int, int]]
"""(index, epoch) of each."""

PLACES_PER_SHARD = 1024


@dataclass(frozen=True)
class ReferenceTable:
    """What the pass left.

    Attributes:
        errors: [epochs, n, 2] float32 on the CPU, winner and loser; NaN for a draw that training does not use.
        held_out: [m, 2] float32, in the order in which the recipe goes through its held-out pairs.
    """

    errors: Tensor
    held_out: Tensor

    def at(self, examples: Examples) -> tuple[Tensor, Tensor]:
        """The winners' and the losers' errors, [B] each, on the CPU."""
        indices, epochs = (torch.tensor(column) for column in zip(*examples, strict=True))
        found = self.errors[epochs, indices]
        return found[:, 0], found[:, 1]


def reference_table(
    root: Path,
    identity: Mapping[str, Any],
    order: Order | BucketOrder,
    steps: int,
    *,
    compute: Callable[[Examples], Tensor],
    compute_held_out: Callable[[], Tensor],
    batch_size: int,
    accelerator: Accelerator,
) -> ReferenceTable:
    """The table of a run of `steps` steps: read from below `root` as far as it is there, computed otherwise.

    The processes of a run share the work. Another run that wants the same numbers waits.

    Args:
        identity: all that decides the numbers (model, pairs, seed, precision, ...), in JSON values.
        compute: errors of some examples, [B, 2] float32.
        compute_held_out: those of the held-out pairs, [m, 2] float32.
        batch_size: examples handed to `compute` at a time.
    """
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    folder = root / f"reference-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    work = _Pass(folder, order, steps * order.batch, compute, batch_size)
    with ExitStack() as stack:
        if accelerator.is_main_process:
            stack.enter_context(alone(folder, wait=True))
            write_json(folder / "identity.json", identity)
        accelerator.wait_for_everyone()
        mine = work.missing()[accelerator.process_index :: accelerator.num_processes]
        accelerator.wait_for_everyone()  # nobody writes before everybody has seen what is missing
        work.fill(mine, shown=accelerator.is_main_process)
        if accelerator.is_main_process and not (folder / HELD_OUT).exists():
            _write(folder / HELD_OUT, compute_held_out())
        accelerator.wait_for_everyone()
        return ReferenceTable(work.table(), _read(folder / HELD_OUT))


HELD_OUT = "held-out.safetensors"


@dataclass(frozen=True)
class _Pass:
    """The shards of one folder. A place is a position in the endless sequence of examples that `Order` deals out."""

    folder: Path
    order: Order | BucketOrder
    n_places: int
    compute: Callable[[Examples], Tensor]
    batch_size: int

    def missing(self) -> list[int]:
        """First places of the shards that are not there, or shorter than this run needs."""
        return [first for first in self._firsts() if self._length(first) < self._wanted(first)]

    def fill(self, firsts: Sequence[int], *, shown: bool) -> None:
        with progress("reference pass", sum(self._wanted(first) for first in firsts), shown=shown) as advance:
            for first in firsts:
                have = self._length(first)
                parts = [_read(self._path(first))] if have else []
                advance(have)
                for start in range(first + have, first + self._wanted(first), self.batch_size):
                    end = min(start + self.batch_size, first + self._wanted(first))
                    parts.append(self.compute(self.order.between(start, end)).cpu())
                    advance(end - start)
                _write(self._path(first), torch.cat(parts))

    def table(self) -> Tensor:
        indices, epochs = (torch.tensor(column) for column in zip(*self.order.between(0, self.n_places), strict=True))
        errors = torch.full((int(epochs.max()) + 1, self.order.n, 2), float("nan"))
        for first in self._firsts():
            places = slice(first, first + self._wanted(first))
            errors[epochs[places], indices[places]] = _read(self._path(first))[: self._wanted(first)]
        return errors

    def _firsts(self) -> range:
        return range(0, self.n_places, PLACES_PER_SHARD)

    def _wanted(self, first: int) -> int:
        return min(PLACES_PER_SHARD, self.n_places - first)

    def _length(self, first: int) -> int:
        path = self._path(first)
        return len(_read(path)) if path.exists() else 0

    def _path(self, first: int) -> Path:
        return self.folder / f"places-{first // PLACES_PER_SHARD:06d}.safetensors"


def _write(path: Path, errors: Tensor) -> None:
    write_bytes(path, save({"errors": errors.float().cpu().contiguous()}))


def _read(path: Path) -> Tensor:
    try:
        errors: Tensor = load_file(path)["errors"]
        return errors
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(f"{path}: missing or damaged ({error}); remove it to compute it again") from None
