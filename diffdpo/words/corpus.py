"""What the tiny model is pretrained on: half reviews, half plain texts, of one side of the split."""

from __future__ import annotations

import random

from diffdpo.words.general import draw_general
from diffdpo.words.review import draw_review

SOURCES = ("mix", "reviews", "general")


def draw_text(rng: random.Random, *, source: str = "mix", held_out: bool = False) -> str:
    """One text.

    Args:
        source: `reviews`, `general`, or `mix`, which is either with even chances.
    """
    if source == "mix":
        source = rng.choice(SOURCES[1:])
    return draw_review(rng, held_out=held_out).text if source == "reviews" else draw_general(rng, held_out=held_out)


def draw_texts(n: int, *, seed: int, source: str = "mix", held_out: bool = False) -> list[str]:
    """`n` texts; the i-th is a function of (seed, source, side, i)."""
    if source not in SOURCES:
        raise ValueError(f"no source {source!r}: known are {', '.join(SOURCES)}")
    return [
        draw_text(random.Random(f"text {seed} {source} {held_out} {i}"), source=source, held_out=held_out)
        for i in range(n)
    ]
