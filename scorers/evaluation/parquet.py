"""Pairs in Parquet files with Pick-a-Pic's columns: caption, jpg_0, jpg_1, label_0, label_1, and maybe has_label.

Captions and labels are read at once and checked; the images come a few rows at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scorers.errors import ScorerError, first_line
from scorers.evaluation.readers import Example, Split
from scorers.stream import Item

ROWS_AT_A_TIME = 16
"""Rows whose images are in memory before they are opened."""

_IMAGES = ("jpg_0", "jpg_1")
_NARROW = ("caption", "label_0", "label_1")

_Labelled = tuple[int, str, tuple[float, float]]
"""Number of a row in its file, its caption, the ranks of its two images."""


def find_files(data: Path, split: str | None) -> list[Path]:
    """The Parquet files of a published split, in `data` or below; None: those of a store of pairs.

    Raises:
        ScorerError: there are none.
    """
    if split is None:
        found = sorted(data.glob("part-*.parquet")) or sorted(
            path for path in data.glob("*.parquet") if not path.name.startswith("scores-")
        )
    else:
        # Both as published (data/test_unique-00000-of-00001.parquet) and as folders of one split each.
        named = data.rglob("*.parquet")
        found = sorted(path for path in named if _is_of(path, split) or path.parent.name == split)
    if not found:
        what = "Parquet files" if split is None else f"{split}*.parquet"
        raise ScorerError(f"{data}: no {what} in it")
    return found


def _is_of(path: Path, split: str) -> bool:
    return path.stem == split or path.name.startswith(f"{split}-")


def read_split(name: str, paths: Sequence[Path]) -> Split:
    """The labelled pairs of some files; rows that Pick-a-Pic marks as unlabelled are left out.

    Raises:
        ScorerError: a file is damaged, lacks a column, or a row has no caption or labels that mean nothing.
    """
    rows = {path: _labelled(path) for path in paths}
    count = sum(map(len, rows.values()))
    if not count:
        raise ScorerError(f"{paths[0]}: no labelled pair in it")
    return Split(name, 2 * count, lambda: (example for path in paths for example in _examples(path, rows[path])))


def _labelled(path: Path) -> list[_Labelled]:
    with _naming(path), pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        missing = [name for name in (*_NARROW, *_IMAGES) if name not in names]
        if missing:
            raise ScorerError(f"{path}: column {missing[0]!r} is missing; there: {', '.join(names)}")
        wanted = [name for name in (*_NARROW, "has_label") if name in names]
        table = file.read(columns=wanted).to_pylist()
    return [_row(path, number, row) for number, row in enumerate(table) if row.get("has_label", True)]


def _row(path: Path, number: int, row: dict[str, Any]) -> _Labelled:
    caption, labels = row["caption"], (row["label_0"], row["label_1"])
    if not isinstance(caption, str):
        raise ScorerError(f"{path}: row {number}: column 'caption' is no text")
    if None in labels or not (min(labels) >= 0 and math.isclose(sum(labels), 1)):
        wrong = f"label_0 {labels[0]} and label_1 {labels[1]}"
        raise ScorerError(f"{path}: row {number}: {wrong} are not 1/0, 0/1 or 0.5/0.5")
    return number, caption, (-float(labels[0]), -float(labels[1]))


def _examples(path: Path, labelled: Sequence[_Labelled]) -> Iterator[Example]:
    rows = _image_rows(path)
    for number, caption, ranks in labelled:
        images = next(row for at, row in rows if at == number)
        where = f"{path}: row {number}"
        items = (Item(f"{where}: {name}", caption, _content(images[name])) for name in _IMAGES)
        yield Example(where, caption, tuple(items), ranks)


def _image_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    # Without pre_buffer: it would read the images of a whole row group ahead.
    with _naming(path), pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        for batch in file.iter_batches(ROWS_AT_A_TIME, columns=list(_IMAGES)):
            for row in batch.to_pylist():
                yield number, row
                number += 1


def _content(cell: Any) -> bytes:
    """The bytes of a binary cell, or of the struct that the `datasets` library makes of an image."""
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    return content if isinstance(content, bytes) else b""


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Arrow's complaints about a file become one line that names it."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ScorerError(f"{path}: not a whole Parquet file, or damaged ({first_line(error)})") from error
