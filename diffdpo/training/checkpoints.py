"""Everything a run needs to go on as if it had never stopped, written so that a torn checkpoint is seen as one.

A checkpoint is a folder `step-00000100`. Every process writes its parts of weights, average and optimiser into files
of its own, `weights-00000.safetensors` and so on (see `pieces`); then the first one writes `state.json`, and last
`complete.json`, which lists every file with its size and names the run. Any number of processes can read it.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from diffdpo.errors import UserError
from diffdpo.progress import say
from diffdpo.runs import read_json
from diffdpo.training.pieces import Pieces, own_pieces

MARKER = "complete.json"
KINDS = ("weights", "average", "optimizer")


@dataclass(frozen=True)
class Checkpoint:
    """What is read back, tensors only when they are asked for. `state` is what `save` was given."""

    step: int
    state: dict[str, Any]
    tensors: Mapping[str, Pieces]
    """By kind."""

    @cached_property
    def exported(self) -> list[Tensor]:
        """The weights that are the run's result, whole and on the CPU: their average, where one is kept."""
        pieces = self.tensors["average" if self.tensors["average"].names() else "weights"]
        return [pieces.read(name) for name in pieces.names()]


def save(
    folder: Path,
    step: int,
    *,
    run: str,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    keep: int,
    accelerator: Accelerator,
) -> None:
    """Write the checkpoint of `step` below `folder`, whole or not at all, and keep only the newest `keep` up to it.

    Later ones go too: a run is at an earlier step only when it passed them over as torn. All processes must call it.

    Args:
        run: what identifies the run; a checkpoint of another one is refused on reading.
        tensors: by kind (one of `KINDS`) and name; in parts, or the same in every process.
        state: further JSON values; those of the first process count.

    Raises:
        UserError: it cannot be written, for want of room on the disk. What there was stays.
    """
    final = folder / f"step-{step:08d}"
    partial = final.with_suffix(".partial")
    with _or_nothing(partial):
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        accelerator.wait_for_everyone()
        written = gather_object(_write_own(partial, tensors, accelerator))
        if accelerator.is_main_process:
            _write(partial / "state.json", {"step": step, **state})
            sizes = {**dict(written), "state.json": (partial / "state.json").stat().st_size}
            _write(partial / MARKER, {"run": run, "files": sizes})
            _sync(partial)
            if final.exists():
                shutil.rmtree(final)
            os.replace(partial, final)
            _sync(folder)
            _remove_others(folder, step, keep)
        accelerator.wait_for_everyone()


@contextmanager
def _or_nothing(partial: Path) -> Iterator[None]:
    """A full disk is told in one line, and what was written until then makes room again."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(
            f"{partial.parent}: the checkpoint of {partial.stem} cannot be written ({error}); earlier ones are kept:"
            " make room, and give the same command again"
        ) from None


def _remove_others(folder: Path, step: int, keep: int) -> None:
    there = steps(folder)
    kept = [one for one in there if one <= step][-keep:]
    for one in set(there).difference(kept):
        shutil.rmtree(folder / f"step-{one:08d}")


def newest(folder: Path, run: str, *, step: int | None = None) -> Checkpoint | None:
    """The newest whole checkpoint below `folder`, or None. Torn ones are passed over with a warning.

    Args:
        step: only the one of this step.

    Raises:
        UserError: the newest whole checkpoint belongs to another run.
    """
    for number in reversed([number for number in steps(folder) if step in (None, number)]):
        path = folder / f"step-{number:08d}"
        problem = _torn(path)
        if problem:
            say(f"warning: {path}: {problem}; passed over")
            continue
        if read_json(path / MARKER)["run"] != run:
            raise UserError(f"{path}: a checkpoint of another run (other settings, model or data); remove it from here")
        try:
            return _open(path, number)
        except (SafetensorError, pickle.UnpicklingError, RuntimeError, UserError) as error:
            say(f"warning: {path}: damaged ({error}); passed over")
    return None


def any_left(folder: Path) -> bool:
    """Whether there are checkpoints below `folder`, whole or not."""
    return bool(steps(folder))


def numbered(tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Tensors under names that keep their order."""
    return {f"{index:05d}": tensor for index, tensor in enumerate(tensors)}


def _write_own(
    folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], accelerator: Accelerator
) -> list[tuple[str, int]]:
    """This process's files, with their sizes."""
    written = []
    for kind, named in tensors.items():
        pieces = own_pieces(named, accelerator.process_index, accelerator.num_processes)
        if pieces:
            path = folder / f"{kind}-{accelerator.process_index:05d}.safetensors"
            save_file(pieces, path)
            _sync(path)
            written.append((path.name, path.stat().st_size))
    return written


def _open(path: Path, step: int) -> Checkpoint:
    names = read_json(path / MARKER)["files"]
    # A file for each kind, without a number, and a torch file for the optimiser: how it was before there were parts.
    old = _old_optimizer(path / "optimizer.pt") if "optimizer.pt" in names else {}
    files = {kind: [path / name for name in names if name.startswith((f"{kind}-", f"{kind}.safe"))] for kind in KINDS}
    tensors = {kind: Pieces(files[kind], old if kind == "optimizer" else None) for kind in KINDS}
    return Checkpoint(step=step, state=read_json(path / "state.json"), tensors=tensors)


def _old_optimizer(path: Path) -> dict[str, Tensor]:
    state = torch.load(path, weights_only=True, map_location="cpu")["state"]
    return {
        f"{number:05d}.{key}": torch.as_tensor(value) for number, kept in state.items() for key, value in kept.items()
    }


def _torn(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None."""
    marker = path / MARKER
    if not marker.exists():
        return f"torn: {MARKER} is missing"
    try:
        content = json.loads(marker.read_text())
    except ValueError:
        return f"torn: {MARKER} cannot be read"
    if not isinstance(content, dict) or not isinstance(content.get("files"), dict) or "run" not in content:
        return f"torn: {MARKER} is not what was written"
    for name, size in content["files"].items():
        if not (path / name).exists() or (path / name).stat().st_size != size:
            return f"torn: {name} is missing or cut short"
    return None


def steps(folder: Path) -> list[int]:
    """The steps that there are checkpoints of below `folder`, whole or not, in order."""
    if not folder.is_dir():
        return []
    names = [path.name.removeprefix("step-") for path in folder.glob("step-*") if path.is_dir()]
    return sorted(int(name) for name in names if name.isdigit())


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
