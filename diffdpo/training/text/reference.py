"""log pi_ref of answers: asked of the reference network, or taken from a table that was filled before training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from diffdpo.data.text.batch import TextBatch
from diffdpo.data.text.packing import PackedBatch
from diffdpo.errors import UserError
from diffdpo.locks import alone
from diffdpo.models.text.causal_lm import TokenLogps, completion_logps
from diffdpo.progress import progress
from diffdpo.runs import write_bytes, write_json

ROWS_PER_SHARD = 1024


class Reference(Protocol):
    """Sums of the reference's log-probabilities."""

    def sums(self, rows: Sequence[int], batch: TextBatch | PackedBatch) -> Tensor:
        """Of the answers of examples `rows`, which `batch` holds in `TextRecipe.batch`'s order; [A * B] float32."""
        ...


class LiveReference:
    """Asks a network, each time."""

    def __init__(self, network: TokenLogps) -> None:
        self._network = network

    @torch.no_grad()
    def sums(self, rows: Sequence[int], batch: TextBatch | PackedBatch) -> Tensor:
        return completion_logps(self._network, batch).sums


class CachedReference:
    """Looks into a table [n, A]."""

    def __init__(self, table: Tensor) -> None:
        self._table = table

    def sums(self, rows: Sequence[int], batch: TextBatch | PackedBatch) -> Tensor:
        return self._table[torch.tensor(rows)].T.flatten().to(batch.ids.device)


def cached_reference(
    root: Path,
    identity: Mapping[str, Any],
    n: int,
    compute: Callable[[Sequence[int]], Tensor],
    *,
    accelerator: Accelerator,
) -> CachedReference:
    """The table of `n` examples: read from below `root` as far as it is there, computed otherwise.

    The processes of a run share the work. Another run that wants the same numbers waits.

    Args:
        identity: all that decides the numbers (model, data, precision, ...), in JSON values.
        compute: rows -> their answers' log-probabilities, [B, A] float32.
    """
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    folder = root / f"text-reference-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    shards = {
        folder / f"rows-{first // ROWS_PER_SHARD:06d}.safetensors": first for first in range(0, n, ROWS_PER_SHARD)
    }
    with ExitStack() as stack:
        if accelerator.is_main_process:
            stack.enter_context(alone(folder, wait=True))
            write_json(folder / "identity.json", identity)
        accelerator.wait_for_everyone()
        missing = [path for path in shards if not path.exists()]
        accelerator.wait_for_everyone()  # nobody writes before everybody has seen what is missing
        mine = missing[accelerator.process_index :: accelerator.num_processes]
        with progress("reference pass", len(mine), shown=accelerator.is_main_process and bool(mine)) as advance:
            for path in mine:
                rows = range(shards[path], min(shards[path] + ROWS_PER_SHARD, n))
                write_bytes(path, save({"logps": compute(rows).float().cpu().contiguous()}))
                advance()
        accelerator.wait_for_everyone()
        return CachedReference(torch.cat([_read(path) for path in shards]))


def _read(path: Path) -> Tensor:
    try:
        logps: Tensor = load_file(path)["logps"]
        return logps
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(f"{path}: missing or damaged ({error}); remove it to compute it again") from None
