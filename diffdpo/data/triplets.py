"""The triplet (x, y_w, y_l): a prompt, the image that was preferred, the one that was not; and their store.

A store is a folder of `part-*.parquet` with the columns of Pick-a-Pic, so that
`datasets.load_dataset("parquet", data_files=...)`, the official Diffusion-DPO script and this package read
the same files; Pick-a-Pic's own published files are a store as they are. Beside them `scores-*.parquet` keeps
what every scorer said of every candidate.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diffdpo.errors import UserError, unknown
from diffdpo.runs import MANIFEST, content_hash, read_json, write_bytes

ROWS_PER_GROUP = 50
"""Pairs that are read together. Small enough for random access, large enough for scans at disk speed."""

GROUPS_KEPT = 4
"""Row groups that a store keeps in memory."""

TIES = ("drop", "half")
"""What to do with ties: leave them out, or keep them as half a win for either side."""


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
    seed_0: int
    seed_1: int
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


@dataclass(frozen=True)
class Triplet:
    """A pair with its winner resolved. In a tie `chosen` is merely the first image."""

    caption: str
    chosen: bytes
    rejected: bytes
    tie: bool
    pair_id: str
    margin: float
    """NaN where the store does not tell."""


_TYPES = {"str": pa.string(), "bytes": pa.binary(), "float": pa.float64(), "int": pa.int64()}
_NEEDED = ("caption", "jpg_0", "jpg_1", "label_0", "label_1")
_OPTIONAL = ("prompt_id", "margin", "num_example_per_prompt", "labeler")
_NARROW = ("caption", "label_0", "label_1", "pair_id", "has_label", *_OPTIONAL)


def _schema(row: type[Pair] | type[Score]) -> pa.Schema:
    return pa.schema([pa.field(field.name, _TYPES[str(field.type)]) for field in fields(row)])


def write_pairs(folder: str | Path, shard: int, pairs: Sequence[Pair]) -> Path:
    """Write `part-<shard>.parquet`, whole or not at all. The same pairs give the same bytes."""
    return _write(Path(folder) / f"part-{shard:05d}.parquet", pairs, _schema(Pair))


def write_scores(folder: str | Path, shard: int, scores: Sequence[Score]) -> Path:
    """Write `scores-<shard>.parquet`, whole or not at all. The same scores give the same bytes."""
    return _write(Path(folder) / f"scores-{shard:05d}.parquet", scores, _schema(Score))


def _write(path: Path, rows: Sequence[Pair] | Sequence[Score], schema: pa.Schema) -> Path:
    columns = {name: [getattr(row, name) for row in rows] for name in schema.names}
    images = {"jpg_0", "jpg_1"}
    file = io.BytesIO()
    pq.write_table(
        pa.table(columns, schema=schema),
        file,
        version="2.6",
        data_page_version="1.0",
        row_group_size=ROWS_PER_GROUP if images & columns.keys() else None,
        # Images are compressed already, and statistics over them would copy whole images into the footer.
        compression={name: "none" if name in images else "zstd" for name in schema.names},
        compression_level={name: 3 for name in schema.names if name not in images},
        use_dictionary=[name for name in schema.names if pa.types.is_string(schema.field(name).type)],
        write_statistics=[name for name in schema.names if name not in images],
        write_page_checksum=True,
    )
    write_bytes(path, file.getvalue())
    return path


def read_scores(folder: str | Path) -> dict[str, list[Any]]:
    """All scores of a store in the order written; the columns are the fields of `Score`."""
    columns: dict[str, list[Any]] = {field.name: [] for field in fields(Score)}
    for path in sorted(Path(folder).glob("scores-*.parquet")):
        with _naming(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_columns(path, file.schema_arrow, Score, list(columns))
            for name, values in file.read(columns=list(columns)).to_pydict().items():
                columns[name] += values
    return columns


@dataclass(frozen=True)
class _Shard:
    """A part file: where its rows stand, and what is needed of them before an image is opened."""

    path: Path
    rows: np.ndarray
    """Numbers of the judged rows in the file, [n] int."""
    group_ends: np.ndarray
    """Row number at which each row group ends, [groups] int."""
    labels: np.ndarray
    """[n, 2] float."""
    columns: Mapping[str, list[Any]]
    """The narrow columns, of the judged rows."""


class TripletStore:
    """Random access to the judged pairs of a store. Rows that Pick-a-Pic marks as unlabelled are left out.

    Attributes, one entry per triplet: `captions`, `pair_ids`, `prompt_ids` (lists; prompt ids are None where
    the store has none), `ties` [N] bool, `margins` [N] float (NaN where the store does not tell), `labels` [N]
    float (the chosen image's share of the preference: 1, 0.5 in a tie), `examples_per_prompt`, `labelers` (lists, None
    likewise).
    """

    def __init__(self, folder: Path, shards: Sequence[_Shard]) -> None:
        self.folder = folder
        self._shards = [shard for shard in shards if len(shard.rows)]
        self._paths = [shard.path for shard in shards]
        self._ends = np.cumsum([len(shard.rows) for shard in self._shards])
        self._recent: dict[tuple[int, int], dict[str, list[Any]]] = {}
        labels = np.concatenate([shard.labels for shard in shards])
        self.ties: np.ndarray = labels[:, 0] == labels[:, 1]
        self.labels: np.ndarray = labels.max(axis=1)
        self.margins = np.array(self._column("margin"), dtype=float)
        self.captions: list[str] = self._column("caption")
        self.pair_ids: list[str] = self._column("pair_id")
        self.prompt_ids: list[str | None] = self._column("prompt_id")
        self.examples_per_prompt: list[int | None] = self._column("num_example_per_prompt")
        self.labelers: list[str | None] = self._column("labeler")

    @classmethod
    def open(cls, folder: str | Path, *, unfinished: bool = False) -> TripletStore:
        """Open a store and check every file's footer, columns, types and labels.

        Args:
            unfinished: take what is there of a store that `diffdpo label` has not finished or that has lost files.

        Raises:
            UserError: no such folder, no Parquet file in it, or one that is torn, damaged or foreign; or the store
                is not whole.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; a triplet store is a folder of part-*.parquet")
        published = (path for path in folder.glob("*.parquet") if not path.name.startswith("scores-"))
        paths = sorted(folder.glob("part-*.parquet")) or sorted(published)
        if not paths:
            raise UserError(f"{folder}: no part-*.parquet in it, so it is not a triplet store")
        store = cls(folder, [_open_shard(path) for path in paths])
        if not unfinished:
            _check_whole(folder, len(store))
        return store

    def __len__(self) -> int:
        return len(self.ties)

    def __iter__(self) -> Iterator[Triplet]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Triplet:
        """The triplet at `index`; its row group is read if it was not read lately.

        Raises:
            UserError: the file is damaged there or lacks an image.
        """
        index = range(len(self))[index]
        number = int(np.searchsorted(self._ends, index, side="right"))
        shard = self._shards[number]
        position = index - int(self._ends[number]) + len(shard.rows)
        row = int(shard.rows[position])
        group = int(np.searchsorted(shard.group_ends, row, side="right"))
        images = self._row_group(number, group)
        within = row - (int(shard.group_ends[group - 1]) if group else 0)
        pair = images["jpg_0"][within], images["jpg_1"][within]
        if not all(pair):
            name = "jpg_1" if pair[0] else "jpg_0"
            raise UserError(f"{shard.path}: row {row}: column {name!r} is empty; remove that row")
        first, second = shard.labels[position]
        chosen, rejected = pair if first >= second else pair[::-1]
        tie, margin = bool(self.ties[index]), float(self.margins[index])
        return Triplet(self.captions[index], chosen, rejected, tie, self.pair_ids[index], margin)

    def keep(self, ties: Literal["drop", "half"]) -> list[int]:
        """The indices to train on: without the ties, or all (a tie is then half a win for either side)."""
        if ties not in TIES:
            raise unknown("ties policy", ties, TIES)
        return list(range(len(self))) if ties == "half" else np.flatnonzero(~self.ties).tolist()

    def fingerprint(self) -> str:
        """SHA-256 over the names and contents of the part files. Reads them whole, at the disk's speed."""
        digest = hashlib.sha256()
        for path in self._paths:
            digest.update(f"{path.name} {content_hash(path)}\n".encode())
        return digest.hexdigest()

    def _column(self, name: str) -> list[Any]:
        return [value for shard in self._shards for value in shard.columns[name]]

    def _row_group(self, number: int, group: int) -> dict[str, list[Any]]:
        key = (number, group)
        found = self._recent.pop(key, None)
        if found is None:
            found = _read_images(self._shards[number].path, group)
        self._recent[key] = found
        while len(self._recent) > GROUPS_KEPT:
            self._recent.pop(next(iter(self._recent)))
        return found


def _check_whole(folder: Path, pairs: int) -> None:
    """Raise UserError if `diffdpo label` made the store and it is not all that it is to be."""
    manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
    if not isinstance(manifest, dict) or manifest.get("command") != "label":
        return
    again = "give the same `diffdpo label` command again"
    if not manifest.get("complete"):
        raise UserError(f"{folder}: labelling is not finished; {again} to finish it")
    labelled = (manifest.get("results") or {}).get("pairs", pairs)
    if pairs != labelled:
        why = "part files are missing" if pairs < labelled else "files of another store are among them"
        what = f"{again} to make them" if pairs < labelled else "take them out"
        raise UserError(f"{folder}: {pairs} pairs where {MANIFEST} tells of {labelled}, so {why}; {what}")


def _read_images(path: Path, group: int) -> dict[str, list[Any]]:
    with _naming(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        columns: dict[str, list[Any]] = file.read_row_group(group, columns=["jpg_0", "jpg_1"]).to_pydict()
        return columns


def _open_shard(path: Path) -> _Shard:
    """Check a part file and read all of it but the images."""
    with _naming(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        names = file.schema_arrow.names
        _check_columns(path, file.schema_arrow, Pair, _NEEDED)
        narrow = [name for name in _NARROW if name in names]
        columns: dict[str, list[Any]] = file.read(columns=narrow).to_pydict()
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    total = sum(sizes)
    rows = np.flatnonzero(np.array(columns.get("has_label", [True] * total), dtype=bool))
    columns.setdefault("pair_id", [f"{path.stem}-{row}" for row in range(total)])
    for name in _OPTIONAL:
        columns.setdefault(name, [None] * total)
    judged = {name: [values[row] for row in rows] for name, values in columns.items()}
    labels = [_labels(path, row, columns["label_0"][row], columns["label_1"][row]) for row in rows.tolist()]
    if None in judged["caption"]:
        row = rows[judged["caption"].index(None)]
        raise UserError(f"{path}: row {row}: column 'caption' is empty; remove that row")
    return _Shard(path, rows, np.cumsum(sizes), np.array(labels, dtype=float).reshape(-1, 2), judged)


def _check_columns(path: Path, schema: pa.Schema, row: type[Pair] | type[Score], needed: Sequence[str]) -> None:
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


def _labels(path: Path, row: int, first: float | None, second: float | None) -> tuple[float, float]:
    pair = first if first is not None else math.nan, second if second is not None else math.nan
    if not (min(pair) >= 0 and math.isclose(sum(pair), 1)):
        wrong = f"label_0 {first} and label_1 {second}"
        raise UserError(f"{path}: row {row}: {wrong} are not 1/0, 0/1 or 0.5/0.5")
    return float(pair[0]), float(pair[1])


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Arrow's own complaints about a file become one line that names it."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())[:160]
        raise UserError(f"{path}: not a whole Parquet file, or damaged ({why}); make it again") from None
