"""Reads a picture of the micro world and says which parts of a caption hold. Geometry only, nothing learned.

The background is the median of the border; what differs from it falls into connected pieces; a piece's colour is the
palette colour next to the median of its inner pixels, its kind the shape whose exact drawing, of the same area and
centre, overlaps it best.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from diffdpo.shapes.render import AREA, PALETTE, SIZE, coverage
from diffdpo.shapes.scene import BACKGROUNDS, COLORS, SHAPES, Scene, parse_caption

FOREGROUND = 42.0
"""Euclidean RGB distance (0..441) from the background at which a pixel belongs to something."""
SPECK = 10.0
"""Pieces with a smaller area (square pixels) are specks; too many of them are a fault of their own kind: see LITTER."""
LITTER = 12.0
"""Total area of specks up to which the picture still counts as holding just its things."""
OVERLAP = 0.80
"""Least overlap (soft intersection over union) with the exact drawing for a piece to count as that shape."""
COLOR_DISTANCE = 75.0
"""Farthest a piece's or the background's colour may lie from its palette colour."""


@dataclass(frozen=True)
class Found:
    """One thing seen in a picture. `color` or `shape` is None where it is like none that is known."""

    color: str | None
    shape: str | None
    x: float
    y: float
    area: float


@dataclass(frozen=True)
class Reading:
    """Everything seen in a picture."""

    background: str | None
    things: tuple[Found, ...]
    clean: bool


@dataclass(frozen=True)
class Verdict:
    """Which parts of a caption hold in a picture."""

    count: bool
    colors: bool
    shapes: bool
    relation: bool
    background: bool

    @property
    def exact(self) -> bool:
        return all(self.parts().values())

    @property
    def share(self) -> float:
        """The share of the parts that hold, 0..1."""
        parts = self.parts()
        return sum(parts.values()) / len(parts)

    def parts(self) -> dict[str, bool]:
        return {name: getattr(self, name) for name in PARTS}


PARTS = ("count", "colors", "shapes", "relation", "background")


def check(image: Image.Image, caption: str | Scene) -> Verdict:
    """Hold a picture against a caption.

    `colors` and `shapes` compare the bags of colours and of shapes; `relation` asks that each thing of the caption, as
    a whole, is there and stands as told (for one thing: that this very thing is there).

    Raises:
        ValueError: the caption is not one of the micro world.
    """
    scene = parse_caption(caption) if isinstance(caption, str) else caption
    reading = read(image)
    found = reading.things
    return Verdict(
        count=len(found) == len(scene.things) and reading.clean,
        colors=_bag(thing.color for thing in found) == _bag(thing.color for thing in scene.things),
        shapes=_bag(thing.shape for thing in found) == _bag(thing.shape for thing in scene.things),
        relation=_relation_holds(scene, found),
        background=reading.background == scene.background,
    )


def read(image: Image.Image) -> Reading:
    """Find the background and the things in a picture of SIZE x SIZE (others are resized to it first)."""
    if image.size != (SIZE, SIZE):
        image = image.resize((SIZE, SIZE), Image.Resampling.BOX)
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64)
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    background = np.median(border, axis=0)
    distance = np.linalg.norm(pixels - background, axis=-1)
    labels, n_pieces = ndimage.label(distance > FOREGROUND)
    things, litter = [], 0.0
    for index in range(1, n_pieces + 1):
        piece = labels == index
        if piece.sum() < SPECK:
            litter += float(piece.sum())
        else:
            things.append(_identify(pixels, distance, piece, background))
    return Reading(_nearest(background, BACKGROUNDS), tuple(things), litter <= LITTER)


def _identify(
    pixels: NDArray[np.float64],
    distance: NDArray[np.float64],
    piece: NDArray[np.bool_],
    background: NDArray[np.float64],
) -> Found:
    core = piece & (distance >= np.quantile(distance[piece], 0.4))
    color = np.median(pixels[core], axis=0)
    # How far each pixel has gone from the background to the thing's colour: its share of cover.
    step = color - background
    alpha = ((pixels - background) @ step / (step @ step)).clip(0, 1)
    alpha *= ndimage.binary_dilation(piece)
    area = float(alpha.sum())
    rows, columns = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    x, y = float((alpha * columns).sum() / area), float((alpha * rows).sum() / area)
    overlaps = [_overlap(alpha, coverage(shape, x, y, float(np.sqrt(area / AREA[shape])))) for shape in SHAPES]
    best = int(np.argmax(overlaps))
    shape = SHAPES[best] if overlaps[best] >= OVERLAP else None
    return Found(_nearest(color, COLORS), shape, x, y, area)


def _relation_holds(scene: Scene, found: Sequence[Found]) -> bool:
    firsts, seconds = (
        [thing for thing in found if thing.color == wanted.color and thing.shape == wanted.shape]
        for wanted in (scene.things[0], scene.things[-1])
    )
    if scene.relation is None:
        return bool(firsts)
    return any(_stands(a, b, scene.relation) for a in firsts for b in seconds)


def _stands(a: Found, b: Found, relation: str) -> bool:
    """Whether a stands so to b: clearly in that direction, and further along it than across it."""
    dx, dy = b.x - a.x, b.y - a.y
    along, across = (dx, dy) if relation in ("left of", "right of") else (dy, dx)
    if relation in ("right of", "below"):
        along = -along
    return along > abs(across) and along > 4.0


def _overlap(a: NDArray[np.float64], b: NDArray[np.float32]) -> float:
    return float(np.minimum(a, b).sum() / np.maximum(a, b).sum())


def _nearest(color: NDArray[np.float64], names: Sequence[str]) -> str | None:
    distances = [float(np.linalg.norm(color - np.asarray(PALETTE[name]))) for name in names]
    best = int(np.argmin(distances))
    return names[best] if distances[best] <= COLOR_DISTANCE else None


def _bag(names: Iterable[str | None]) -> list[str]:
    return sorted(map(str, names))
