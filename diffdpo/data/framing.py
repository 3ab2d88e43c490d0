"""How stored pictures become those that are trained on: size, aspect-ratio bucket, crop and mirror image.

All of it is settled once for a pair, so that its two images differ in nothing but what was preferred.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from PIL import Image

Size = tuple[int, int]
"""Width and height, pixels."""

NARROWEST = 4
"""The longer side of a bucket is at most this many times the shorter one, as in SDXL's own list."""

Place = tuple[float, float] | None
"""Where a crop lies between left and right, and between top and bottom, in [0, 1); None is the centre."""


class Shot(NamedTuple):
    """A picture as it is trained on."""

    image: Image.Image
    numbers: tuple[int, int, int, int]
    """Height and width as stored, top and left of the crop after the resize; pixels."""


@dataclass(frozen=True)
class Framing:
    """What is done to the images of every pair.

    Args:
        size: pixels; side of the square that is cut out. None takes images as they are.
        step: sides of the buckets are multiples of this many pixels, and `size` only sets their area; None has no
            buckets but the square.
        flip: keep the mirror image of every picture as well.
        crops: how many crops at random places are kept; 0 keeps the one in the centre.
    """

    size: int | None = None
    step: int | None = None
    flip: bool = False
    crops: int = 0

    @property
    def n_views(self) -> int:
        """Ways in which a pair can be seen. The first of them is never a mirror image."""
        return max(1, self.crops) * (2 if self.flip else 1)

    @cached_property
    def buckets(self) -> list[Size]:
        """Empty where there are none."""
        return bucket_sizes(self.size, self.step) if self.size and self.step else []

    def identity(self) -> dict[str, Any]:
        """All that decides the views, in JSON values; less what is not used, as in caches of old."""
        later = {"step": self.step, "flip": self.flip, "crops": self.crops}
        return {"size": self.size, **{name: value for name, value in later.items() if value}}

    def views(self, pair_id: str, images: Sequence[Image.Image]) -> list[Shot]:
        """The shots of a pair, view by view, in each the images in the order given. All have one size if `size`
        is set."""
        size = self._target(images)
        if size is None:
            shots = [[Shot(image, (image.height, image.width, 0, 0))] for image in images]
            sides = [(shot, image.width) for (shot,), image in zip(shots, images, strict=True)]
            return self._with_mirrored(sides)
        covers = [covering(image, size) for image in images]
        found: list[Shot] = []
        for place in self._places(pair_id):
            cut = zip(images, covers, strict=True)
            found += self._with_mirrored([(_crop(image, cover, size, place), cover.width) for image, cover in cut])
        return found

    def _with_mirrored(self, shots: Sequence[tuple[Shot, int]]) -> list[Shot]:
        plain = [shot for shot, _ in shots]
        return plain + [_mirrored(shot, width) for shot, width in shots] if self.flip else plain

    def _target(self, images: Sequence[Image.Image]) -> Size | None:
        if self.size is None:
            return None
        return nearest_bucket([image.size for image in images], self.buckets) if self.step else (self.size, self.size)

    def _places(self, pair_id: str) -> list[Place]:
        return [random_place(pair_id, number) for number in range(self.crops)] or [None]


def bucket_step(size: int, multiple: int) -> int:
    """The step between the sides of buckets: a sixteenth of `size`, as SDXL's 64 for 1024, rounded up to what a
    model can take.

    Args:
        multiple: the model takes sides that are multiples of this many pixels.
    """
    return multiple * math.ceil(size / (16 * multiple))


def bucket_sizes(size: int, step: int) -> list[Size]:
    """Shapes of about `size` x `size` pixels and never more, with sides that are multiples of `step`.

    Podell et al. 2023 (SDXL), section 2.3 and appendix I. For every side the longest other side that fits.
    """
    found: set[Size] = set()
    for side in range(step, NARROWEST * size + 1, step):
        other = size * size // side // step * step
        if other and max(side, other) <= NARROWEST * min(side, other):
            found |= {(side, other), (other, side)}
    return sorted(found)


def nearest_bucket(sizes: Sequence[Size], buckets: Sequence[Size]) -> Size:
    """The one bucket of a pair's images: nearest to the geometric mean of their aspect ratios, by the ratio of the
    ratios. It does not depend on which image won. Of equally near ones the largest."""
    wanted = sum(math.log(width / height) for width, height in sizes) / len(sizes)

    def distance(bucket: Size) -> tuple[float, int]:
        width, height = bucket
        return round(abs(math.log(width / height) - wanted), 9), -width * height

    return min(buckets, key=distance)


def covering(image: Image.Image, size: Size) -> Image.Image:
    """The image, resized until it just covers `size`."""
    scale = max(size[0] / image.width, size[1] / image.height)
    resized = round(image.width * scale), round(image.height * scale)
    return image if resized == image.size else image.resize(resized, Image.Resampling.LANCZOS)


def random_place(pair_id: str, number: int) -> tuple[float, float]:
    """Where the crop of that number lies. The same in every run, so that runs of other seeds share one cache."""
    digest = hashlib.blake2b(f"crop\x1f{pair_id}\x1f{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4]) / 2**32, int.from_bytes(digest[4:]) / 2**32


def _crop(image: Image.Image, cover: Image.Image, size: Size, place: Place) -> Shot:
    slack = cover.width - size[0], cover.height - size[1]
    if place is None:
        left, top = slack[0] // 2, slack[1] // 2
    else:
        left, top = int(place[0] * (slack[0] + 1)), int(place[1] * (slack[1] + 1))
    cut = cover.crop((left, top, left + size[0], top + size[1]))
    return Shot(cut, (image.height, image.width, top, left))


def _mirrored(shot: Shot, width: int) -> Shot:
    """The mirror image: what was cut off on the right is now missing on the left."""
    height, stored_width, top, left = shot.numbers
    image = shot.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return Shot(image, (height, stored_width, top, width - left - shot.image.width))
