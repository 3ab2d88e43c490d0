"""HPDv2 as published: `train.json` or `test.json`, and a folder of images.

An entry of `train.json` is a pair; one of `test.json` ranks several images, and every two of them are a pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, islice
from pathlib import Path

from diffdpo.data.judgements import Entry, image_folder, read_entry
from diffdpo.data.prompts import read_rows
from diffdpo.data.published.layout import JUDGEMENTS, choose_split
from diffdpo.data.published.rows import ROWS_PER_PART, Row, Source
from diffdpo.errors import UserError
from diffdpo.runs import content_hash


def open_hpdv2(
    place: str | Path, split: str | None = None, limit: int | None = None, images: str | Path | None = None
) -> Source:
    """Read all judgements and plan the parts; no image is opened.

    Args:
        place: the folder with `train.json` or `test.json`, or such a file.
        split: `train` or `test`; None is `train` where both are there.
        limit: take the first so many entries only.
        images: the folder that image paths start from; None is the one of the file's own name beside it (`train/`)
            where there is one, else the file's folder.

    Raises:
        UserError: no such file or split, not JSON, no entry.
    """
    split, file = _file(Path(place), split)
    folder = Path(images) if images is not None else image_folder(file)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of images")
    entries = [_entry(file, where, row) for where, row in islice(read_rows(file), limit)]
    if not entries:
        raise UserError(f"{file}: empty, there is no judgement in it")
    parts = _cut(entries)
    return Source(
        place=file,
        settings={"format": "hpdv2", "split": split, "limit": limit, "judgements": content_hash(file)},
        sizes=[sum(map(_n_pairs, part)) for part in parts],
        rows=lambda part: (row for entry in parts[part] for row in _pairs(folder, entry)),
    )


def _file(place: Path, split: str | None) -> tuple[str, Path]:
    if place.is_file():
        if split not in (None, place.stem):
            raise UserError(f"{place}: one file, and not of the split {split!r}; leave --split out")
        return place.stem, place
    if not place.exists():
        raise UserError(f"{place}: no such file or folder")
    there = [Path(name).stem for name in JUDGEMENTS if (place / name).is_file()]
    if not there:
        raise UserError(f"{place}: no {' or '.join(JUDGEMENTS)} in it")
    chosen = choose_split(place, split, there)
    return chosen, place / f"{chosen}.json"


def _entry(file: Path, where: str, row: object) -> Entry | Row:
    try:
        return read_entry(file, where, row)
    except UserError as error:
        return Row(where, problem=str(error).removeprefix(f"{file}: {where}: "))


def _cut(entries: Sequence[Entry | Row]) -> list[list[Entry | Row]]:
    """Runs of entries of about `ROWS_PER_PART` pairs."""
    parts: list[list[Entry | Row]] = [[]]
    pairs = 0
    for entry in entries:
        if pairs >= ROWS_PER_PART:
            parts.append([])
            pairs = 0
        parts[-1].append(entry)
        pairs += _n_pairs(entry)
    return parts


def _n_pairs(entry: Entry | Row) -> int:
    return 1 if isinstance(entry, Row) else len(entry.files) * (len(entry.files) - 1) // 2


def _pairs(folder: Path, entry: Entry | Row) -> Iterator[Row]:
    if isinstance(entry, Row):
        yield entry
        return
    for first, second in combinations(range(len(entry.files)), 2):
        apart = entry.ranks[second] - entry.ranks[first]
        label = (0.5, 1.0, 0.0)[(apart > 0) - (apart < 0)] if entry.label is None else entry.label
        several = len(entry.files) > 2
        yield Row(
            f"{entry.name}, images {first} and {second}" if several else entry.name,
            caption=entry.caption,
            images=(folder / entry.files[first], folder / entry.files[second]),
            labels=(label, 1 - label),
            margin=float(abs(apart)) if several else abs(2 * label - 1),
        )
