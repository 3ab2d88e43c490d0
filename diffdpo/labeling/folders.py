"""Working in an output folder: one process at a time, and nothing left over from one that was killed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffdpo.errors import UserError
from diffdpo.locks import alone
from diffdpo.runs import Run, claim, read_manifest


@contextmanager
def claimed(
    folder: Path, command: str, settings: Mapping[str, Any], inputs: Sequence[str | Path] = ()
) -> Iterator[Run]:
    """`runs.claim`, for this process alone, and without the half-written files of one that was killed.

    Raises:
        UserError: as `runs.claim`, or another process works in the folder.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: a file; name another output folder")
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        # A run killed while it wrote its very first file leaves only that one, and claims nothing.
        if all(path.suffix == ".partial" for path in folder.iterdir()):
            _remove_partial(folder)
        run = claim(folder, command, settings, inputs)
        _remove_partial(folder)
        yield run


def check_claimable(folder: Path, command: str) -> str:
    """For a dry run: what `claimed` would find, without writing; settings are not compared.

    Raises:
        UserError: the folder holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: a file; name another output folder")
    if not folder.exists() or not any(folder.iterdir()):
        return "new"
    manifest = read_manifest(folder)
    if manifest["command"] != command:
        raise UserError(f"{folder}: made by `diffdpo {manifest['command']}`; name another output folder")
    return "complete" if manifest["complete"] else "partial"


def _remove_partial(folder: Path) -> None:
    for path in folder.rglob("*.partial"):
        path.unlink()
