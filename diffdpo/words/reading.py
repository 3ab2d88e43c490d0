"""Reads a review: which sentences are understood, and what each says of what. A grammar, nothing learned.

Takes any string: what is not of the grammar is a sentence not understood, never an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from diffdpo.words.lexicon import BE, LIKING, MILD, SMALL_HALF, STRONG, worth
from diffdpo.words.patterns import fixed, headings, leads, liking, lower, pair, predicate
from diffdpo.words.subjects import Subject, attributes

LONGEST = 300
"""Characters of a sentence; a longer one is not read at all."""


@dataclass(frozen=True)
class Opinion:
    """What one clause says: of which target, and how much. A plain statement is its own target and says 0."""

    target: str
    worth: float = 0.0


@dataclass(frozen=True)
class Sentence:
    """A sentence understood. `clash`: a `but` or `although` between two halves that do not differ in sign."""

    opinions: tuple[Opinion, ...]
    clash: bool = False


@dataclass(frozen=True)
class Reading:
    """A text as it was understood: `None` stands for a sentence that was not."""

    subject: Subject | None
    sentences: tuple[Sentence | None, ...]

    @property
    def understood(self) -> bool:
        """Whether it is a review all of whose sentences are of the grammar."""
        return self.subject is not None and bool(self.sentences) and None not in self.sentences


def read(text: str) -> Reading:
    """Take a text apart. Case and white space do not matter; a sentence ends in one `.` or `!`."""
    text = " ".join(text.split()).lower()
    subject, rest = _subject(text)
    sentences = tuple(read_sentence(part) for part in re.findall(r"[^.!?]+[.!?]*|[.!?]+", rest) if part.strip())
    return Reading(subject, sentences)


def read_sentence(text: str) -> Sentence | None:
    """One sentence with its end mark, or None where it is not of the grammar."""
    text = re.sub(r"n't\b", " not", " ".join(text.split()).lower())
    if len(text) > LONGEST or not re.fullmatch(r"[^.!?]+[.!]", text):
        return None
    for opinions, body in _without_lead(text[:-1].strip()):
        if not body:
            return Sentence(opinions)
        if found := _body(body):
            return Sentence(opinions + found.opinions, found.clash)
    return None


def _subject(text: str) -> tuple[Subject | None, str]:
    """The subject of the heading, and what follows it."""
    heading, mark, rest = text.partition(".")
    subject = headings().get(heading + mark)
    return (subject, rest) if subject else (None, text)


def _without_lead(text: str) -> Iterator[tuple[tuple[Opinion, ...], str]]:
    """The sentence as it stands, and without an opening or hedge it begins with."""
    yield (), text
    for lead, target in leads().items():
        if text.startswith(lead + " "):
            yield (Opinion(target),), text[len(lead) + 1 :]


def _body(text: str) -> Sentence | None:
    """Clauses and how they are joined."""
    if report := re.fullmatch(r"some people say that (.+), (but i disagree|and i agree)", text):
        sign, opinions = -1.0 if report[2] == "but i disagree" else 1.0, _clause(report[1])
        return Sentence(tuple(Opinion(said.target, sign * said.worth) for said in opinions)) if opinions else None
    if opinions := _clause(text):
        return Sentence(opinions)
    for halves, weights, contrast in _halves(text):
        left, right = (_clause(half) for half in halves)
        if left and right:
            return _joined((left, right), weights, contrast)
    return None


def _halves(text: str) -> Iterator[tuple[tuple[str, str], tuple[float, float], bool]]:
    """Every place where two clauses may be joined: the halves, what they count, and whether they are contrasted.

    `and` may stand inside a clause too, hence every place is tried.
    """
    if text.startswith("although "):
        first, _, second = text.removeprefix("although ").partition(", ")
        yield (first, second), (SMALL_HALF, 1.0), True
    for link, weights, contrast in (
        (", but ", (SMALL_HALF, 1.0), True),
        (", although ", (1.0, SMALL_HALF), True),
        (", and ", (1.0, 1.0), False),
        (" and ", (1.0, 1.0), False),
    ):
        for match in re.finditer(link, text):
            yield (text[: match.start()], text[match.end() :]), weights, contrast


def _joined(
    sides: tuple[tuple[Opinion, ...], tuple[Opinion, ...]], weights: tuple[float, float], contrast: bool
) -> Sentence:
    opinions = [
        Opinion(opinion.target, weight * opinion.worth)
        for weight, side in zip(weights, sides, strict=True)
        for opinion in side
    ]
    first, second = (sum(opinion.worth for opinion in side) for side in sides)
    return Sentence(tuple(opinions), clash=contrast and first * second >= 0)


def _clause(text: str) -> tuple[Opinion, ...] | None:
    """One clause; `both` and `neither` make two opinions."""
    if text in fixed():
        return (Opinion(*fixed()[text]),)
    if match := liking().fullmatch(text):
        return (Opinion(match[2], lower(LIKING)[match[1]]),)
    if match := pair().fullmatch(text):
        return _read_pair(*match.groups())
    if match := predicate().fullmatch(text):
        return _read_predicate(*match.groups(default=""))
    return None


def _read_predicate(target: str, verb: str, degree: str, word: str, at_all: str) -> tuple[Opinion, ...] | None:
    attribute = attributes().get(target.removeprefix("the "))
    words = attribute.worth if attribute else MILD | STRONG
    if word not in words or verb not in BE[attribute is not None and attribute.plural]:
        return None
    if at_all and degree != "not":
        return None
    name = attribute.name if attribute else "whole" if target == "it" else target
    return (Opinion(name, worth(words[word], "not at all" if at_all else degree)),)


def _read_pair(quantity: str, first: str, link: str, second: str, verb: str, word: str) -> tuple[Opinion, ...] | None:
    both = quantity == "both"
    plural = both or attributes()[second].plural
    if (link == "and") != both or verb not in BE[plural]:
        return None
    value = worth((MILD | STRONG)[word], "" if both else "not at all")
    return Opinion(first, value), Opinion(second, value)
