"""What a judge is trained on: a prompt, two or more images, and which of them people preferred.

Three kinds of source give the same `Judgements`: a triplet store or Pick-a-Pic's own Parquet files, HPDv2's
`train.json`, and rankings such as HPDv2's `test.json` or ImageReward's. Images stay encoded files until asked for.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffdpo.data.prompts import read_rows
from diffdpo.data.triplets import TripletStore
from diffdpo.errors import UserError
from diffdpo.runs import content_hash

IMAGES = ("file_path", "image_path", "generations", "images")
"""Keys under which a JSON entry may list its images: HPDv2's two files, ImageReward, plain."""
PREFERENCES = ("human_preference",)
"""One number per image, more is better."""
RANKS = ("rank", "ranking")
"""One number per image, less is better."""
COUNT = "num_example_per_prompt"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was said of the images of one prompt."""

    name: str
    """Where it stands, for messages."""
    caption: str
    ranks: tuple[int, ...]
    """One per image; 1 is best, equal ranks are a tie."""
    label: float | None
    """Of two images: the first one's share of the preference, in [0, 1]. None for a ranking of more."""
    weight: float
    """1 / number of judgements of this prompt, as PickScore weighs its examples."""

    @property
    def tie(self) -> bool:
        """Nothing was preferred to anything."""
        return len(set(self.ranks)) == 1


@dataclass(frozen=True)
class Judgements:
    """All judgements of a source, in its order."""

    path: Path
    rows: Sequence[Judgement]
    images: Callable[[int], list[bytes]]
    """The encoded image files of a judgement, in the order of its ranks. Threads may call it."""
    fingerprint: Callable[[], str]
    """SHA-256 over judgements and images. Reads them whole, at the disk's speed."""

    def __len__(self) -> int:
        return len(self.rows)


def open_judgements(path: str | Path, images: str | Path | None = None) -> Judgements:
    """Open a source and check all of it but the inside of the images.

    Args:
        path: a folder of Parquet files, a folder with `train.json`, or a `.json` or `.jsonl` file.
        images: the folder that a JSON file's image paths start from; None is the folder of the file's own name
            beside it (`train/` of `train.json`) where there is one, else the file's folder.

    Raises:
        UserError: nothing of the kind is there, a column or key is missing, a label does not lie in [0, 1], an
            image file is not there.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_dir() and not any(path.glob("*.parquet")) and (path / "train.json").is_file():
        path = path / "train.json"
    if path.is_dir():
        if images is not None:
            raise UserError(f"{path}: Parquet files hold their images; leave data.images out")
        return _from_store(TripletStore.open(path))
    if path.suffix.lower() not in (".json", ".jsonl"):
        raise UserError(f"{path}: neither a folder of Parquet files nor a .json or .jsonl file")
    return _from_json(path, Path(images) if images is not None else image_folder(path))


def _from_store(store: TripletStore) -> Judgements:
    counts = Counter(store.captions)
    rows = []
    for pair_id, caption, label, count in zip(
        store.pair_ids, store.captions, store.labels.tolist(), store.examples_per_prompt, strict=True
    ):
        name = f"pair {pair_id!r}"
        weight = _weight(f"{store.folder}: {name}", counts[caption] if count is None else count)
        # The store hands out the chosen image first.
        rows.append(Judgement(name, caption, (1, 1) if label == 0.5 else (1, 2), label, weight))
    lock = threading.Lock()  # the store keeps the row groups it read last

    def images(index: int) -> list[bytes]:
        with lock:
            triplet = store[index]
        return [triplet.chosen, triplet.rejected]

    return Judgements(store.folder, rows, images, store.fingerprint)


@dataclass(frozen=True, slots=True)
class Entry:
    """A judgement of a JSON file."""

    name: str
    """Where it stands in the file."""
    caption: str
    files: tuple[str, ...]
    ranks: tuple[int, ...]
    label: float | None
    count: Any


def _from_json(path: Path, folder: Path) -> Judgements:
    entries = [read_entry(path, where, row) for where, row in read_rows(path)]
    if not entries:
        raise UserError(f"{path}: empty, there is no judgement in it")
    _check_files(path, folder, entries)
    counts = Counter(entry.caption for entry in entries)
    rows = [
        Judgement(
            entry.name,
            entry.caption,
            entry.ranks,
            entry.label,
            _weight(f"{path}: {entry.name}", counts[entry.caption] if entry.count is None else entry.count),
        )
        for entry in entries
    ]

    def images(index: int) -> list[bytes]:
        return [_bytes(path, entries[index].name, folder / file) for file in entries[index].files]

    def fingerprint() -> str:
        digest = hashlib.sha256(content_hash(path).encode())
        for file in dict.fromkeys(file for entry in entries for file in entry.files):
            digest.update(f"{file} {content_hash(folder / file)}\n".encode())
        return digest.hexdigest()

    return Judgements(path, rows, images, fingerprint)


def read_entry(path: Path, where: str, row: Any) -> Entry:
    """An entry of a JSON file of judgements.

    Raises:
        UserError: it is none; begins with `path` and `where`.
    """
    if not isinstance(row, Mapping):
        raise UserError(f"{path}: {where}: not an object with a prompt, images and a judgement")
    at = f"{path}: {where}"
    caption = row.get("prompt")
    if not isinstance(caption, str) or not caption.strip():
        raise UserError(f"{at}: 'prompt' must be a text that is not empty, not {caption!r}")
    _, files = _field(at, row, IMAGES)
    if len(files) < 2 or not all(isinstance(file, str) and file for file in files):
        raise UserError(f"{at}: a judgement is of two or more image paths, not {_short(files)}")
    key, values = _field(at, row, (*PREFERENCES, *RANKS))
    if len(values) != len(files):
        raise UserError(f"{at}: {len(files)} images and {len(values)} values of {key!r}; one for each is needed")
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        raise UserError(f"{at}: {key!r} must hold numbers, not {_short(values)}")
    label = None
    if key in PREFERENCES:
        label = _check_preferences(f"{at}: {key!r}", values)
        values = [-value for value in values]
    ranks = tuple(1 + sum(other < value for other in values) for value in values)
    if len(files) == 2 and label is None:
        label = (0.5, 1.0, 0.0)[(values[0] < values[1]) - (values[0] > values[1])]
    return Entry(where, caption.strip(), tuple(files), ranks, label, row.get(COUNT))


def _check_preferences(at: str, values: Sequence[float]) -> float | None:
    """The soft label of two images; None of more."""
    if not all(0 <= value <= 1 for value in values):
        raise UserError(f"{at}: {_short(values)} must lie between 0 and 1")
    if len(values) != 2:
        return None
    if values[0] == values[1]:
        return 0.5
    if not math.isclose(sum(values), 1):
        raise UserError(f"{at}: {_short(values)} must add up to 1, or be equal for a tie")
    return float(values[0])


def _field(at: str, row: Mapping[str, Any], names: Sequence[str]) -> tuple[str, list[Any]]:
    name = next((name for name in names if name in row), None)
    if name is None:
        there = ", ".join(map(str, row)) or "none"
        raise UserError(f"{at}: no {' or '.join(map(repr, names))}; there: {there}")
    if not isinstance(row[name], list):
        raise UserError(f"{at}: {name!r} must be a list, not {_short(row[name])}")
    return name, row[name]


def _weight(at: str, count: Any) -> float:
    if not isinstance(count, int | float) or not count >= 1:
        raise UserError(f"{at}: {COUNT!r} must be at least 1, not {count!r}")
    return 1 / count


def image_folder(path: Path) -> Path:
    """Where the image paths of a JSON file start from, unless one says otherwise; see `open_judgements`."""
    own = path.with_suffix("")
    return own if own.is_dir() else path.parent


def _check_files(path: Path, folder: Path, entries: Sequence[Entry]) -> None:
    known: set[str] = set()
    for entry in entries:
        for file in entry.files:
            if file not in known and not (folder / file).is_file():
                raise UserError(f"{path}: {entry.name}: the image {folder / file} is not there")
            known.add(file)


def _bytes(path: Path, name: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {name}: the image {file} cannot be read ({error.strerror})") from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
