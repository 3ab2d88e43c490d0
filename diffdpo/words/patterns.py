"""What the reader looks for, made from the tables: whole clauses, and patterns of those with an attribute in them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from diffdpo.words.lexicon import (
    BE,
    DEGREES,
    HEDGES,
    LIKING,
    MILD,
    NEGATIONS,
    OPENINGS,
    PLAIN,
    RECOMMENDATIONS,
    STRONG,
    VERDICTS,
)
from diffdpo.words.subjects import Subject, all_subjects, attributes
from diffdpo.words.things import KINDS, THINGS


@cache
def headings() -> dict[str, Subject]:
    return {subject.heading.lower(): subject for subject in all_subjects()}


@cache
def leads() -> dict[str, str]:
    """What a sentence may begin with, and the target it counts as: a second opening is a repetition."""
    openings = {text.lower(): "lead" for texts in OPENINGS.values() for text in texts if not text.endswith(".")}
    return openings | {hedge.lower(): f"hedge {hedge.lower()}" for hedge in HEDGES}


@cache
def fixed() -> dict[str, tuple[str, float]]:
    """Clauses that stand in a table as a whole."""
    plain = [text for texts in PLAIN.values() for text in texts]
    plain += [text.removesuffix(".") for texts in OPENINGS.values() for text in texts if text.endswith(".")]
    return (
        {text.lower(): (text.lower(), 0.0) for text in plain}
        | {text.lower(): (f"{kind} verdict", value) for kind in KINDS for text, value in VERDICTS[kind].items()}
        | {text.lower(): ("verdict", value) for text, value in RECOMMENDATIONS.items()}
    )


@cache
def liking() -> re.Pattern[str]:
    return re.compile(rf"({_any(lower(LIKING))}) the ({_any(attributes())})")


@cache
def pair() -> re.Pattern[str]:
    names, verbs, words = _any(attributes()), _any({*BE[False], *BE[True]}), _any(MILD | STRONG)
    return re.compile(rf"(both|neither) the ({names}) (and|nor) the ({names}) ({verbs}) ({words})")


@cache
def predicate() -> re.Pattern[str]:
    things = [f"the {name}" for kind in THINGS.values() for name in kind]
    targets = _any(["it", *things, *(f"the {name}" for name in attributes())])
    degrees = _any({*filter(None, DEGREES), *NEGATIONS} - {"not at all"})
    words = _any({word for attribute in attributes().values() for word in attribute.worth})
    return re.compile(rf"({targets}) ({_any({*BE[False], *BE[True]})}) (?:({degrees}) )?({words})( at all)?")


def lower(table: dict[str, float]) -> dict[str, float]:
    return {text.lower(): value for text, value in table.items()}


def _any(words: Iterable[str]) -> str:
    """A pattern for any of the words, the longest first."""
    return "|".join(re.escape(word) for word in sorted(words, key=lambda word: (-len(word), word)))
