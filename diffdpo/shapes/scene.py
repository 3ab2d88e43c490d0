"""What a scene is: one or two coloured shapes, how they stand to each other, a background; and its caption.

Knows words and combinations only; pixels are the business of `render` and `checker`.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
from dataclasses import dataclass, replace
from functools import cache

SHAPES = ("circle", "square", "triangle")
COLORS = ("red", "green", "blue", "yellow", "purple")
BACKGROUNDS = ("white", "gray", "black")
RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

HELD_OUT_SHARE = 0.2

_THING = rf"an? ({'|'.join(COLORS)}) ({'|'.join(SHAPES)})"
_CAPTION = re.compile(rf"{_THING}(?: ({'|'.join(RELATIONS)}) {_THING})? on a ({'|'.join(BACKGROUNDS)}) background")


@dataclass(frozen=True, order=True)
class Thing:
    """One coloured shape."""

    color: str
    shape: str

    def __str__(self) -> str:
        return f"a {self.color} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """One thing, or `first` standing in `relation` to `second`, on a background."""

    first: Thing
    background: str
    relation: str | None = None
    second: Thing | None = None

    def __post_init__(self) -> None:
        if (self.relation is None) != (self.second is None):
            raise ValueError("a scene has both a relation and a second thing, or neither")

    @property
    def things(self) -> tuple[Thing, ...]:
        return (self.first,) if self.second is None else (self.first, self.second)

    @property
    def caption(self) -> str:
        middle = "" if self.second is None else f" {self.relation} {self.second}"
        return f"{self.first}{middle} on a {self.background} background"

    @property
    def combination(self) -> str:
        """What the train / held-out split is made by.

        For two things the unordered pair, whatever the relation, order and background; for one thing the thing and
        its background. Every single thing, relation and background therefore occurs in training.
        """
        return combination(self.things, self.background)

    @property
    def held_out(self) -> bool:
        return is_held_out(self.combination)

    def mirrored(self) -> Scene:
        """The same arrangement told from the other thing: `A left of B` is `B right of A`."""
        if self.second is None or self.relation is None:
            return self
        return replace(self, first=self.second, relation=OPPOSITE[self.relation], second=self.first)


def combination(things: tuple[Thing, ...], background: str) -> str:
    """The name of what one or two things on a background make, whatever their order and relation."""
    return f"{things[0]} on {background}" if len(things) == 1 else " and ".join(sorted(map(str, things)))


def is_held_out(name: str) -> bool:
    """Whether a combination is one that no training may see."""
    return name in _held_out_combinations()


def parse_caption(caption: str) -> Scene:
    """The scene a caption describes.

    Raises:
        ValueError: the caption is not a sentence of the micro world's grammar.
    """
    match = _CAPTION.fullmatch(" ".join(caption.split()).lower())
    if match is None:
        raise ValueError(f"not a caption of the shapes world: {caption!r}; it reads like {all_scenes()[0].caption!r}")
    color, shape, relation, other_color, other_shape, background = match.groups()
    second = Thing(other_color, other_shape) if relation else None
    return Scene(Thing(color, shape), background, relation, second)


@cache
def all_scenes() -> tuple[Scene, ...]:
    """Every scene that can be told, in a fixed order: first those of two (different) things, then those of one."""
    things = [Thing(color, shape) for color, shape in itertools.product(COLORS, SHAPES)]
    two = [
        Scene(first, background, relation, second)
        for first, second in itertools.permutations(things, 2)
        for relation in RELATIONS
        for background in BACKGROUNDS
    ]
    one = [Scene(thing, background) for thing in things for background in BACKGROUNDS]
    return tuple(two + one)


@cache
def split_scenes(*, held_out: bool) -> tuple[Scene, ...]:
    """The scenes of one side of the split, in the order of `all_scenes`."""
    return tuple(scene for scene in all_scenes() if scene.held_out == held_out)


@cache
def _held_out_combinations() -> frozenset[str]:
    """A fixed fifth of the combinations, one and two things apart, picked by a hash so that no seed moves it."""
    picked: set[str] = set()
    for n_things in (1, 2):
        combinations = {scene.combination for scene in all_scenes() if len(scene.things) == n_things}
        ordered = sorted(combinations, key=lambda text: hashlib.sha256(text.encode()).hexdigest())
        picked.update(ordered[: round(HELD_OUT_SHARE * len(ordered))])
    return frozenset(picked)


def sample_captions(n: int, *, seed: int, held_out: bool) -> list[str]:
    """`n` different captions of one side of the split, in random order."""
    scenes = list(split_scenes(held_out=held_out))
    if n > len(scenes):
        raise ValueError(f"there are {len(scenes)} such captions, not {n}")
    return [scene.caption for scene in random.Random(seed).sample(scenes, n)]
