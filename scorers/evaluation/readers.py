"""The published test sets, as they lie on the disk, as examples: images of one prompt and what people said.

hpdv2        test.json: [{prompt, image_path: [..], rank: [..]}], images below test/
imagereward  test.json: [{prompt, generations: [..], ranking: [..]}], images below test_images/
pickapic     Parquet files of the splits validation_unique and test_unique
pairs        a folder of Parquet files with the same columns, for instance a triplet store
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scorers.errors import ScorerError, first_line
from scorers.evaluation import TEST_SETS
from scorers.stream import Item


@dataclass(frozen=True)
class Example:
    """Images of one prompt, in the order of their human ranks."""

    name: str
    prompt: str
    items: tuple[Item, ...]
    ranks: tuple[float, ...]
    """One per image: lower is better, equal is a tie."""


@dataclass(frozen=True)
class Split:
    """A part of a test set. `examples` reads it anew each time it is called."""

    name: str
    images: int
    examples: Callable[[], Iterator[Example]]


@dataclass(frozen=True)
class _Layout:
    """How a set with a JSON file is laid out."""

    files: tuple[str, ...]
    folders: tuple[str, ...]
    paths: str
    ranks: str


_LAYOUTS = {
    "hpdv2": _Layout(("test.json",), ("test", "."), "image_path", "rank"),
    "imagereward": _Layout(
        ("test.json", "data/test.json", "ImageReward_test.json"), ("test_images", "."), "generations", "ranking"
    ),
}

VALIDATION, TEST = "validation_unique", "test_unique"


def open_set(
    test_set: str, data: str | Path, images: str | Path | None = None, *, must_exist: bool = True
) -> list[Split]:
    """The splits of a test set: the one that is reported, and of Pick-a-Pic the one to tune on before it.

    Reads all but the images, and checks it. With `must_exist`, image files must be there.

    Raises:
        ScorerError: an unknown set, or data that is not as published; names the file and the entry.
    """
    data = Path(data)
    if not data.exists():
        raise ScorerError(f"{data}: no such file or folder")
    if test_set in _LAYOUTS:
        return [_from_json(_LAYOUTS[test_set], data, images, must_exist)]
    if test_set not in TEST_SETS:
        raise ScorerError(f"there is no test set {test_set!r}; the names: {', '.join(TEST_SETS)}")
    if images is not None:
        raise ScorerError(f"{test_set}: the images are in the Parquet files; there is no other folder of them")
    from scorers.evaluation.parquet import find_files, read_split

    if test_set == "pairs":
        return [read_split("pairs", find_files(data, None))]
    return [read_split(split, find_files(data, split)) for split in (VALIDATION, TEST)]


def _from_json(layout: _Layout, data: Path, images: str | Path | None, must_exist: bool) -> Split:
    file = data if data.is_file() else _first(data, layout.files)
    if file is None:
        raise ScorerError(f"{data}: no {' or '.join(layout.files)} in it")
    folder = _first(file.parent, layout.folders) if images is None else Path(images)
    if folder is None or not folder.is_dir():
        raise ScorerError(f"{folder}: no such folder of images")
    examples = [_example(layout, file, folder, number, entry) for number, entry in enumerate(_entries(file))]
    items = [item for example in examples for item in example.items]
    for item in items if must_exist else ():
        if not Path(item.name).is_file():
            raise ScorerError(f"{file}: the image {item.name} is not there")
    return Split("test", len(items), lambda: iter(examples))


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).exists()), None)


def _entries(file: Path) -> list[Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ScorerError(f"{file}: not valid JSON: {first_line(error)}") from None
    if not isinstance(content, list) or not content:
        raise ScorerError(f"{file}: must be a JSON list with an object for each prompt")
    return content


def _example(layout: _Layout, file: Path, folder: Path, number: int, entry: Any) -> Example:
    where = f"{file}: entry {number}"
    keys = ("prompt", layout.paths, layout.ranks)
    if not isinstance(entry, dict) or any(key not in entry for key in keys):
        raise ScorerError(f"{where}: must be an object with the keys {', '.join(keys)}")
    prompt, paths, ranks = (entry[key] for key in keys)
    if not isinstance(prompt, str):
        raise ScorerError(f"{where}: 'prompt' is no text")
    if not isinstance(paths, list) or len(paths) < 2 or not all(isinstance(path, str) for path in paths):
        raise ScorerError(f"{where}: {layout.paths!r} must be a list of at least 2 paths")
    if not isinstance(ranks, list) or len(ranks) != len(paths) or not all(map(_is_number, ranks)):
        raise ScorerError(f"{where}: {layout.ranks!r} must be a list with a number for each of {len(paths)} images")
    items = tuple(Item(str(folder / path), prompt, folder / path) for path in paths)
    return Example(where, prompt, items, tuple(map(float, ranks)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
