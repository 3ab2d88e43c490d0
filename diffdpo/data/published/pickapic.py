"""Pick-a-Pic v1 and v2 as published: Parquet files of pairs with the images inside.

Ties are told by their labels (0.5 each), unlabelled rows by `has_label`; file names say no more than the split. The
images are read a few rows at a time, whatever the size of the files' row groups.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from diffdpo.data.parts import NEEDED, Pair, check_columns, check_labels, naming
from diffdpo.data.published.layout import choose_split, split_of, splits_of
from diffdpo.data.published.rows import ROWS_PER_PART, Row, Source
from diffdpo.errors import UserError

ROWS_AT_A_TIME = 16
"""Rows that are in memory before they become pairs."""

_ALSO = ("has_label", "ranking_id", "model_0", "model_1")


@dataclass(frozen=True)
class _Piece:
    """Neighbouring row groups of one file, which become one part."""

    file: Path
    groups: tuple[int, ...]
    start: int
    """Number of the first row in the file."""
    rows: int
    bytes: int


def open_pickapic(place: str | Path, split: str | None = None, limit: int | None = None) -> Source:
    """Look at the footers of all files and plan the parts.

    Args:
        place: one file, or a folder with the files of one or more splits in it or below.
        split: one of `layout.SPLITS`; None is `train` where there are several.
        limit: take the first so many rows only.

    Raises:
        UserError: no such file or split, a file that is damaged or lacks a column; names the file.
    """
    place = Path(place)
    root = place if place.is_dir() else place.parent
    chosen, files = _files(place, split)
    pieces = list(_limited([piece for file in files for piece in _pieces(file)], limit))
    if not pieces:
        raise UserError(f"{place}: no row in it")
    names = [file.relative_to(root).as_posix() for file in files]
    digest = hashlib.sha256()
    for name, file in zip(names, files, strict=True):
        digest.update(f"{name} {file.stat().st_size} ".encode() + _footer(file))
    return Source(
        place=root,
        settings={
            "format": "pickapic",
            "split": chosen,
            "limit": limit,
            "files": {"n": len(files), "footers": digest.hexdigest()},
        },
        sizes=[piece.rows for piece in pieces],
        rows=lambda part: _rows(root, pieces[part]),
        bytes=sum(piece.bytes for piece in pieces),
    )


def _files(place: Path, split: str | None) -> tuple[str, list[Path]]:
    if not place.exists():
        raise UserError(f"{place}: no such file or folder")
    files = sorted(place.rglob("*.parquet")) if place.is_dir() else [place]
    if not files:
        raise UserError(f"{place}: no Parquet file in it or below")
    if place.is_file():
        if split not in (None, split_of(place)):
            raise UserError(f"{place}: one file, and not of the split {split!r}; leave --split out")
        return split_of(place), files
    chosen = choose_split(place, split, splits_of(files) or [""])
    return chosen, [file for file in files if split_of(file) == chosen]


def _footer(file: Path) -> bytes:
    """It holds the place, size and, of small columns, the bounds of every column of every row group."""
    with open(file, "rb") as stream:
        stream.seek(-8, 2)
        length = int.from_bytes(stream.read(4), "little")
        stream.seek(-8 - length, 2)
        return stream.read(length)


def _pieces(file: Path) -> Iterator[_Piece]:
    with naming(file), pq.ParquetFile(file) as opened:
        check_columns(file, opened.schema_arrow, Pair, NEEDED)
        groups = [opened.metadata.row_group(number) for number in range(opened.metadata.num_row_groups)]
        sizes = [(group.num_rows, _compressed(group)) for group in groups]
    start, first = 0, 0
    for number in range(len(sizes)):
        rows = sum(size for size, _ in sizes[first : number + 1])
        if rows >= ROWS_PER_PART or (rows and number == len(sizes) - 1):
            taken = range(first, number + 1)
            yield _Piece(file, tuple(taken), start, rows, sum(sizes[group][1] for group in taken))
            start, first = start + rows, number + 1


def _compressed(group: Any) -> int:
    return sum(group.column(number).total_compressed_size for number in range(group.num_columns))


def _limited(pieces: Sequence[_Piece], limit: int | None) -> Iterator[_Piece]:
    left = limit if limit is not None else sum(piece.rows for piece in pieces)
    for piece in pieces:
        if left <= 0:
            return
        rows = min(left, piece.rows)
        yield _Piece(piece.file, piece.groups, piece.start, rows, piece.bytes * rows // piece.rows)
        left -= rows


def _rows(root: Path, piece: _Piece) -> Iterator[Row]:
    name = piece.file.relative_to(root).as_posix()
    for number, columns in enumerate(islice(_columns(piece), piece.rows), start=piece.start):
        yield _row(f"{name}: row {number}", columns)


def _columns(piece: _Piece) -> Iterator[dict[str, Any]]:
    # Without pre_buffer: it would read the images of a whole row group ahead.
    with naming(piece.file), pq.ParquetFile(piece.file, pre_buffer=False, buffer_size=1 << 20) as file:
        names = [name for name in (*NEEDED, *_ALSO) if name in file.schema_arrow.names]
        for batch in file.iter_batches(ROWS_AT_A_TIME, row_groups=list(piece.groups), columns=names):
            yield from batch.to_pylist()


def _row(where: str, columns: dict[str, Any]) -> Row:
    given = columns["label_0"], columns["label_1"]
    if columns.get("has_label") is False or all(label is None or math.isnan(label) for label in given):
        return Row(where)
    if columns["caption"] is None:
        return Row(where, problem="column 'caption' is empty")
    try:
        labels = check_labels("labels", *given)
    except UserError as error:
        return Row(where, problem=str(error))
    ranking = columns.get("ranking_id")
    return Row(
        where,
        caption=columns["caption"],
        images=(columns["jpg_0"] or b"", columns["jpg_1"] or b""),
        labels=labels,
        margin=abs(labels[0] - labels[1]),
        id=None if ranking is None else str(ranking),
        models=(columns.get("model_0") or "", columns.get("model_1") or ""),
    )
