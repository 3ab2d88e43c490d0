"""The files of a triplet store: their rows, their columns, and how they are written and checked.

`part-*.parquet` has the columns of Pick-a-Pic and some of our own; `scores-*.parquet` keeps what every scorer said
of every candidate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffdpo.errors import UserError
from diffdpo.runs import whole_file

ROWS_PER_GROUP = 50
"""Pairs that are read together. Small enough for random access, large enough for scans at disk speed."""

NOTE = "diffdpo"
"""Where a part keeps what is to be remembered of its making, among the metadata of its file."""


@dataclass(frozen=True)
class Pair:
    """One row of a part file. Labels are 1/0 or 0/1; a tie is 0.5/0.5."""

    caption: str
    jpg_0: bytes
    """The first image, an encoded file. The columns are called jpg because Pick-a-Pic's are; PNG is fine in
    them, as every reader, the official script included, opens them with PIL."""
    jpg_1: bytes
    label_0: float
    label_1: float
    pair_id: str
    prompt_id: str
    model_0: str
    model_1: str
    seed_0: int | None
    """None where published data does not tell."""
    seed_1: int | None
    labeler: str
    """Who judged: scorer names joined by `+`, or a person."""
    margin: float
    """How much better the winner is, in the labeler's unit; 0 for a tie."""


@dataclass(frozen=True)
class Score:
    """One row of a scores file: what a scorer said of a candidate. Caption and seed make the image again."""

    image_id: str
    scorer: str
    score: float
    caption: str
    seed: int


_TYPES = {"str": pa.string(), "bytes": pa.binary(), "float": pa.float64(), "int": pa.int64(), "int | None": pa.int64()}
NEEDED = ("caption", "jpg_0", "jpg_1", "label_0", "label_1")
"""The columns without which a file is no part of a store."""


def _schema(row: type[Pair] | type[Score]) -> pa.Schema:
    return pa.schema([pa.field(field.name, _TYPES[str(field.type)]) for field in fields(row)])


def part_path(folder: str | Path, shard: int) -> Path:
    return Path(folder) / f"part-{shard:05d}.parquet"


def write_pairs(folder: str | Path, shard: int, pairs: Iterable[Pair], note: Callable[[], str] | None = None) -> Path:
    """Write `part-<shard>.parquet`, whole or not at all. The same pairs give the same bytes.

    Args:
        pairs: taken `ROWS_PER_GROUP` at a time; no more of them are in memory.
        note: called after the last pair; what it says can be had from `read_note`.
    """
    return _write(part_path(folder, shard), pairs, _schema(Pair), ROWS_PER_GROUP, note)


def write_scores(folder: str | Path, shard: int, scores: Sequence[Score]) -> Path:
    """Write `scores-<shard>.parquet`, whole or not at all. The same scores give the same bytes."""
    return _write(Path(folder) / f"scores-{shard:05d}.parquet", scores, _schema(Score), max(1, len(scores)))


def _write(
    path: Path,
    rows: Iterable[Pair] | Iterable[Score],
    schema: pa.Schema,
    rows_per_group: int,
    note: Callable[[], str] | None = None,
) -> Path:
    left = iter(rows)
    with whole_file(path) as file, _writer(file, schema) as writer:
        group = list(islice(left, rows_per_group))
        while True:
            columns = {name: [getattr(row, name) for row in group] for name in schema.names}
            writer.write_table(pa.table(columns, schema=schema))
            if not (group := list(islice(left, rows_per_group))):
                break
        if note is not None:
            writer.add_key_value_metadata({NOTE: note()})
    return path


def _writer(file: Any, schema: pa.Schema) -> pq.ParquetWriter:
    images = {"jpg_0", "jpg_1"}
    return pq.ParquetWriter(
        file,
        schema,
        version="2.6",
        data_page_version="1.0",
        # Images are compressed already, and statistics over them would copy whole images into the footer.
        compression={name: "none" if name in images else "zstd" for name in schema.names},
        compression_level={name: 3 for name in schema.names if name not in images},
        use_dictionary=[name for name in schema.names if pa.types.is_string(schema.field(name).type)],
        write_statistics=[name for name in schema.names if name not in images],
        write_page_checksum=True,
    )


def read_note(path: Path) -> str | None:
    """What `write_pairs` was told to remember in a part."""
    with naming(path), pq.ParquetFile(path) as file:
        found = (file.metadata.metadata or {}).get(NOTE.encode())
    return None if found is None else found.decode()


def read_column(path: Path, name: str) -> list[Any]:
    """One column of a part. Meant for the narrow ones."""
    with naming(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        values: list[Any] = file.read(columns=[name]).column(0).to_pylist()
        return values


def read_scores(folder: str | Path) -> dict[str, list[Any]]:
    """All scores of a store in the order written; the columns are the fields of `Score`."""
    columns: dict[str, list[Any]] = {field.name: [] for field in fields(Score)}
    for path in sorted(Path(folder).glob("scores-*.parquet")):
        with naming(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
            check_columns(path, file.schema_arrow, Score, list(columns))
            for name, values in file.read(columns=list(columns)).to_pydict().items():
                columns[name] += values
    return columns


def check_columns(path: Path, schema: pa.Schema, row: type[Pair] | type[Score], needed: Sequence[str]) -> None:
    """Raise UserError if one of `needed` is missing, or a column of `row` holds something of another kind."""
    missing = [name for name in needed if name not in schema.names]
    if missing:
        raise UserError(f"{path}: column {missing[0]!r} is missing; needed are {', '.join(needed)}")
    for field in _schema(row):
        kind = schema.field(field.name).type if field.name in schema.names else field.type
        if not _fits(kind, field.type):
            raise UserError(f"{path}: column {field.name!r} holds {kind}, not {field.type}")


def _fits(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether a column of other people's files can be read as ours: widths may differ, kinds may not."""
    if pa.types.is_binary(wanted):
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
    if pa.types.is_string(wanted):
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
    if pa.types.is_floating(wanted):
        return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))
    return bool(pa.types.is_integer(kind))


def check_labels(where: str, first: float | None, second: float | None) -> tuple[float, float]:
    """The labels of a judged row as they are.

    Raises:
        UserError: they share out no preference; names `where` they stand.
    """
    pair = first if first is not None else math.nan, second if second is not None else math.nan
    if not (min(pair) >= 0 and math.isclose(sum(pair), 1)):
        wrong = f"label_0 {first} and label_1 {second}"
        raise UserError(f"{where}: {wrong} are not 1/0, 0/1 or 0.5/0.5")
    return float(pair[0]), float(pair[1])


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Arrow's own complaints about a file become one line that names it."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())[:160]
        raise UserError(f"{path}: not a whole Parquet file, or damaged ({why}); make it again") from None
