"""Rows that take long to make, a block at a time, so that a run that is stopped goes on where it stood."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffdpo.progress import progress
from diffdpo.runs import read_json, write_json

Row = dict[str, Any]
"""JSON values only."""


def in_blocks(folder: Path, label: str, n: int, size: int, make: Callable[[range], list[Row]]) -> list[Row]:
    """Rows 0..n-1 in their order.

    Args:
        folder: keeps each block as a file, written whole; those that are there are not made again.
        size: rows of a block. It is the same in every run of the folder: a setting.
        make: row numbers -> their rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    done = len(list(folder.glob("[0-9]*.json"))) * size
    with progress(label, n, done=min(done, n)) as advance:
        for first in range(0, n, size):
            wanted = range(first, min(first + size, n))
            path = folder / f"{first // size:05d}.json"
            if not path.exists():
                write_json(path, make(wanted))
                advance(len(wanted))
            rows += read_json(path)
    return rows
