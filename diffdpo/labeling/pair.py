"""From scores to preferences: which of a prompt's candidates become pairs, and who wins. Pure functions.

P prompts, N candidates each, S scorers.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffdpo.errors import UserError, unknown

STRATEGIES = ("best-worst", "all")

_DECIMALS = 9
"""Combined scores are rounded to these: scorers that cancel must tie, not win by a rounding error."""


@dataclass(frozen=True)
class Preference:
    """Candidates `first` < `second` of one prompt; `margin` is first's score minus second's, 0 a tie."""

    prompt: int
    first: int
    second: int
    margin: float

    @property
    def labels(self) -> tuple[float, float]:
        """1/0 or 0/1; a tie is 0.5/0.5."""
        if self.margin == 0:
            return 0.5, 0.5
        return (1.0, 0.0) if self.margin > 0 else (0.0, 1.0)


def combine(scores: ArrayLike) -> NDArray[np.float64]:
    """[S, P, N] scores -> [P, N], what the pairs are made by.

    One scorer: its scores as they are. Several: each scorer's scores are standardised within each prompt
    (minus the mean, over the population standard deviation; 0 where all N are equal), so that no scorer's
    scale or spread counts for more, and averaged over the scorers.

    Raises:
        ValueError: a score is not finite.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(scores).all():
        scorer, prompt, candidate = np.argwhere(~np.isfinite(scores))[0]
        raise ValueError(f"scorer {scorer}, prompt {prompt}, candidate {candidate}: the score is not finite")
    if len(scores) == 1:
        return np.array(scores[0])
    centred = scores - scores.mean(axis=-1, keepdims=True)
    constant = np.ptp(scores, axis=-1, keepdims=True) == 0
    spread = np.where(constant, 1.0, scores.std(axis=-1, keepdims=True))
    standardised = np.where(constant, 0.0, centred / spread)
    return np.array(standardised.mean(axis=0).round(_DECIMALS))


def make_pairs(scores: ArrayLike, strategy: str = "best-worst", min_margin: float = 0.0) -> list[Preference]:
    """The preferences in combined scores [P, N], in the order of the prompts.

    Args:
        strategy: `best-worst`: one pair per prompt, its best candidate against its worst (of equals the first
            best and the last worst). `all`: every two candidates of a prompt.
        min_margin: closer pairs are left out, in the unit of `scores`; 0 keeps all, ties included.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if strategy not in STRATEGIES:
        raise unknown("way to pair", strategy, STRATEGIES)
    if scores.shape[-1] < 2:
        raise UserError(f"pairs need at least 2 candidates per prompt, not {scores.shape[-1]}")
    preferences = []
    for prompt, row in enumerate(scores):
        for first, second in _candidates(row, strategy):
            margin = float(row[first] - row[second])
            if abs(margin) >= min_margin:
                preferences.append(Preference(prompt, first, second, margin))
    return preferences


def _candidates(row: NDArray[np.float64], strategy: str) -> list[tuple[int, int]]:
    if strategy == "all":
        return list(itertools.combinations(range(len(row)), 2))
    best = int(row.argmax())
    worst = len(row) - 1 - int(row[::-1].argmin())
    return [(min(best, worst), max(best, worst))]
