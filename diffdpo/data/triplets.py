"""The triplet (x, y_w, y_l): a prompt, the image that was preferred, the one that was not; and their store.

A store is a folder of `part-*.parquet` with the columns of Pick-a-Pic, so that
`datasets.load_dataset("parquet", data_files=...)`, the official Diffusion-DPO script and this package read
the same files; the published files of one split of Pick-a-Pic are a store as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diffdpo.data.parts import (
    NEEDED,
    ROWS_PER_GROUP,
    Pair,
    Score,
    check_columns,
    check_labels,
    naming,
    read_scores,
    write_pairs,
    write_scores,
)
from diffdpo.data.published.layout import advice, splits_of
from diffdpo.errors import UserError, unknown
from diffdpo.runs import MANIFEST, content_hash, read_json

__all__ = [
    "ROWS_PER_GROUP",
    "TIES",
    "Pair",
    "Score",
    "Triplet",
    "TripletStore",
    "read_scores",
    "write_pairs",
    "write_scores",
]

GROUPS_KEPT = 4
"""Row groups that a store keeps in memory at most."""

BYTES_KEPT = 1 << 28
"""What they may take together, unless one alone takes more: published files have groups of a thousand pairs."""

TIES = ("drop", "half")
"""What to do with ties: leave them out, or keep them as half a win for either side."""


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


_MAKERS = {"label": "labelling", "import": "importing"}
"""The commands that make a store, and what they do."""
_OPTIONAL = ("prompt_id", "margin", "num_example_per_prompt", "labeler")
_NARROW = ("caption", "label_0", "label_1", "pair_id", "has_label", *_OPTIONAL)


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
        self._recent: dict[tuple[int, int], pa.Table] = {}
        self._fingerprint: str | None = None
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
            unfinished: take what is there of a store that is not finished or that has lost files.

        Raises:
            UserError: no such folder, no Parquet file in it, or one that is torn, damaged or foreign; the store is
                not whole, or several splits of published data lie in it.
        """
        folder = Path(folder)
        store = cls(folder, [_open_shard(path) for path in _part_files(folder)])
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
        pair = images.column("jpg_0")[within].as_py(), images.column("jpg_1")[within].as_py()
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
        """SHA-256 over the names and contents of the part files. Reads them whole, at the disk's speed, once."""
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for path in self._paths:
                digest.update(f"{path.name} {content_hash(path)}\n".encode())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def known_as(self, fingerprint: str) -> None:
        """Take the fingerprint from another process that has opened the same folder."""
        self._fingerprint = fingerprint

    def _column(self, name: str) -> list[Any]:
        return [value for shard in self._shards for value in shard.columns[name]]

    def _row_group(self, number: int, group: int) -> pa.Table:
        key = (number, group)
        found = self._recent.pop(key, None)
        if found is None:
            found = _read_images(self._shards[number].path, group)
        self._recent[key] = found
        while len(self._recent) > GROUPS_KEPT or (len(self._recent) > 1 and self._bytes_kept() > BYTES_KEPT):
            self._recent.pop(next(iter(self._recent)))
        return found

    def _bytes_kept(self) -> int:
        return sum(table.nbytes for table in self._recent.values())


_WANTED = "pairs to train on are a folder that `diffdpo label` or `diffdpo import` made"


def _part_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        what = "a file" if folder.is_file() else "no such folder"
        raise UserError(f"{folder}: {what}; {_WANTED}{advice(folder)}")
    parts = sorted(folder.glob("part-*.parquet"))
    if parts:
        return parts
    published = sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("scores-"))
    if not published:
        raise UserError(f"{folder}: no part-*.parquet in it, and {_WANTED}{advice(folder)}")
    splits = splits_of(published)
    if len(splits) > 1:
        how = f"`diffdpo import pickapic {folder} --split {splits[-1]} --out STORE`"
        raise UserError(f"{folder}: holds several splits ({', '.join(splits)}); {how} makes a store of one")
    return published


def _check_whole(folder: Path, pairs: int) -> None:
    """Raise UserError if a command of ours made the store and it is not all that it is to be."""
    manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
    command = manifest.get("command") if isinstance(manifest, dict) else None
    if command not in _MAKERS:
        return
    again = f"give the same `diffdpo {command}` command again"
    if not manifest.get("complete"):
        raise UserError(f"{folder}: {_MAKERS[command]} is not finished; {again} to finish it")
    expected = (manifest.get("results") or {}).get("pairs", pairs)
    if pairs != expected:
        why = "part files are missing" if pairs < expected else "files of another store are among them"
        what = f"{again} to make them" if pairs < expected else "take them out"
        raise UserError(f"{folder}: {pairs} pairs where {MANIFEST} tells of {expected}, so {why}; {what}")


def _read_images(path: Path, group: int) -> pa.Table:
    with naming(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        return file.read_row_group(group, columns=["jpg_0", "jpg_1"])


def _open_shard(path: Path) -> _Shard:
    """Check a part file and read all of it but the images."""
    with naming(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        names = file.schema_arrow.names
        check_columns(path, file.schema_arrow, Pair, NEEDED)
        narrow = [name for name in _NARROW if name in names]
        columns: dict[str, list[Any]] = file.read(columns=narrow).to_pydict()
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    total = sum(sizes)
    rows = np.flatnonzero(np.array(columns.get("has_label", [True] * total), dtype=bool))
    columns.setdefault("pair_id", [f"{path.stem}-{row}" for row in range(total)])
    for name in _OPTIONAL:
        columns.setdefault(name, [None] * total)
    judged = {name: [values[row] for row in rows] for name, values in columns.items()}
    labels = [
        check_labels(f"{path}: row {row}", columns["label_0"][row], columns["label_1"][row]) for row in rows.tolist()
    ]
    if None in judged["caption"]:
        row = rows[judged["caption"].index(None)]
        raise UserError(f"{path}: row {row}: column 'caption' is empty; remove that row")
    return _Shard(path, rows, np.cumsum(sizes), np.array(labels, dtype=float).reshape(-1, 2), judged)
