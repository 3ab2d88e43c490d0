"""The prompts that a report shows with their images: those that moved most either way, and some drawn by lot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffdpo.benchmarks import words
from diffdpo.benchmarks.compare import Comparison
from diffdpo.benchmarks.report.embed import data_uri
from diffdpo.benchmarks.results import BenchRun

N_RANDOM = 6
_RANDOM_SEED = 0


@dataclass(frozen=True)
class Card:
    """One prompt's two images and what was found in them."""

    index: int
    prompt: str
    images: tuple[str, str]
    """Data URIs, before and after."""
    parts: tuple[tuple[str, bool, bool], ...]
    scores: tuple[tuple[str, str, str], ...]


def choose(comparison: Comparison, images: int) -> dict[str, list[int]]:
    """Image numbers under the heading they are shown under; random ones are fixed by the number of images."""
    drawn = np.random.default_rng(_RANDOM_SEED).permutation(images)[:N_RANDOM]
    return {
        "gained": [move.index for move in comparison.gained],
        "lost": [move.index for move in comparison.lost],
        "random": sorted(drawn.tolist()),
    }


def card(comparison: Comparison, a: BenchRun, b: BenchRun, index: int) -> Card:
    """The card of image `index`.

    Raises:
        UserError: an image cannot be read.
    """
    before, after = a.rows[index], b.rows[index]
    parts_before, parts_after = before.parts or {}, after.parts or {}
    return Card(
        index=index,
        prompt=before.prompt,
        images=(data_uri(a.image(index)), data_uri(b.image(index))),
        parts=tuple((name, parts_before[name], parts_after[name]) for name in parts_before if name in parts_after),
        scores=tuple(
            (m.name, words.score(m, before.scores[m.name]), words.score(m, after.scores[m.name]))
            for m in comparison.scores
        ),
    )
