"""A row of published data, and the pair it is: its images looked at, their bytes kept as they are."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from diffdpo.data.parts import Pair
from diffdpo.data.prompts import Prompt

ROWS_PER_PART = 1000
"""About as many published rows become one part; what a killed import loses at most."""

UNLABELLED = "no label"
"""Why a row that nobody judged is no pair."""


@dataclass(frozen=True)
class Row:
    """Two images of a prompt, as published."""

    where: str
    """Its file and row, seen from the place of the data."""
    caption: str = ""
    images: tuple[Path | bytes, Path | bytes] = (b"", b"")
    labels: tuple[float, float] | None = None
    """None where nobody judged."""
    margin: float = 0.0
    id: str | None = None
    """None where it has no name: then its content is one."""
    models: tuple[str, str] = ("", "")
    problem: str | None = None
    """Why it cannot be used; the other fields may be empty then."""


@dataclass(frozen=True)
class Source:
    """Published data, cut into parts."""

    place: Path
    settings: Mapping[str, Any]
    """What decides the store: the format, what was chosen of it, a hash of what is there. JSON values."""
    sizes: Sequence[int]
    """Rows of each part."""
    rows: Callable[[int], Iterator[Row]]
    """The rows of a part, read as they are asked for."""
    bytes: int | None = None
    """What they take on the disk, where that can be told without reading them."""


def pair_of(row: Row) -> Pair | str:
    """The pair, or why there is none. Reads and decodes the images; threads may call it."""
    if row.problem is not None or row.labels is None:
        return row.problem or UNLABELLED
    try:
        first, second = (_content(image, f"image {side}") for side, image in enumerate(row.images))
    except ValueError as error:
        return str(error)
    return Pair(
        caption=row.caption,
        jpg_0=first,
        jpg_1=second,
        label_0=row.labels[0],
        label_1=row.labels[1],
        pair_id=row.id or _content_id(row, first, second),
        prompt_id=Prompt.of(row.caption).id,
        model_0=row.models[0],
        model_1=row.models[1],
        seed_0=None,
        seed_1=None,
        labeler="people",
        margin=row.margin,
    )


def _content(image: Path | bytes, name: str) -> bytes:
    """An encoded image that can be decoded.

    Raises:
        ValueError: it is not there, or cannot; says so in words that are the same each time.
    """
    if isinstance(image, Path):
        name = f"the image {image.name}"
        try:
            image = image.read_bytes()
        except OSError as error:
            raise ValueError(f"{name} cannot be read ({error.strerror})") from None
    if not image:
        raise ValueError(f"{name} is empty")
    try:
        with Image.open(io.BytesIO(image)) as opened:
            opened.draft(None, (1, 1))  # a JPEG is decoded small, but to its last byte
            opened.load()
    except UnidentifiedImageError:
        raise ValueError(f"{name} is no image that can be opened") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} cannot be opened ({error})") from None
    return image


def _content_id(row: Row, first: bytes, second: bytes) -> str:
    digest = hashlib.sha256(f"{row.caption}\0{row.labels}\0{len(first)}\0".encode())
    digest.update(first)
    digest.update(second)
    return digest.hexdigest()[:32]
