"""What a review may be about, which attributes that has, and which subjects no training may see."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from diffdpo.words.lexicon import MILD, STRONG
from diffdpo.words.things import COMMON, KINDS, MODIFIERS, PLURAL, THINGS, WORDS

HELD_OUT_SHARE = 0.2


@dataclass(frozen=True)
class Attribute:
    """Something that can be good or bad about a thing."""

    name: str
    worth: Mapping[str, float]

    @property
    def plural(self) -> bool:
        return self.name in PLURAL.split()


@dataclass(frozen=True, order=True)
class Subject:
    """What a review is about."""

    kind: str
    modifier: str
    thing: str

    def __str__(self) -> str:
        return f"{self.modifier} {self.thing}"

    @property
    def heading(self) -> str:
        return f"Review of the {self}."

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        names = f"{COMMON[self.kind]} {THINGS[self.kind][self.thing]}".split()
        return tuple(attributes()[name.replace("_", " ")] for name in names)

    @property
    def held_out(self) -> bool:
        return self in _held_out_subjects()


@cache
def attributes() -> dict[str, Attribute]:
    """Every attribute by its name, and the words that fit it with what they are worth."""
    return {name.replace("_", " "): Attribute(name.replace("_", " "), _worths(words)) for name, words in WORDS.items()}


def _worths(words: str) -> dict[str, float]:
    good, bad = (side.split() for side in words.split("|"))
    return dict.fromkeys(good, 1.0) | dict.fromkeys(bad, -1.0) | MILD | STRONG


@cache
def all_subjects() -> tuple[Subject, ...]:
    """Every modifier with every thing of its kind, in a fixed order."""
    return tuple(
        Subject(kind, modifier, thing)
        for kind in KINDS
        for thing in THINGS[kind]
        for modifier in MODIFIERS[kind].split()
    )


@cache
def split_subjects(*, held_out: bool) -> tuple[Subject, ...]:
    """The subjects of one side of the split, in the order of `all_subjects`."""
    return tuple(subject for subject in all_subjects() if subject.held_out == held_out)


@cache
def _held_out_subjects() -> frozenset[Subject]:
    """A fixed fifth of each kind's, picked by a hash so that no seed moves it. Training has every word of them."""
    picked: set[Subject] = set()
    for kind in KINDS:
        subjects = [subject for subject in all_subjects() if subject.kind == kind]
        ordered = sorted(subjects, key=lambda subject: hashlib.sha256(str(subject).encode()).hexdigest())
        picked.update(ordered[: round(HELD_OUT_SHARE * len(ordered))])
    return frozenset(picked)
