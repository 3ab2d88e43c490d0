"""From scores to preferences: which of a prompt's candidates become pairs, and who wins. Pure functions.

P prompts, N candidates each, S scorers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffdpo.errors import UserError, unknown
from scorers.combine import borda, check_weights, dominance, weighted

STRATEGIES = ("best-worst", "all")

COMBINATIONS = ("weighted", "rank", "pareto", "first")
"""How several scorers decide together: see `combine`."""


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


def check_combination(how: str, weights: Sequence[float], scorers: int) -> None:
    """Refuse a combination that the scorers cannot make, before any image is drawn.

    Raises:
        UserError: a combination other than the default for one scorer, or weights it does not know.
        scorers.ScorerError: weights that mean nothing.
    """
    if how not in COMBINATIONS:
        raise unknown("combination", how, COMBINATIONS)
    if weights and how not in ("weighted", "rank"):
        raise UserError(f"weights: {how!r} uses none; they go with 'weighted' and 'rank'")
    if scorers == 1 and (weights or how != "weighted"):
        raise UserError("combine, weights: these are for several scorers, and there is one")
    check_weights(weights, scorers)


def combine(scores: ArrayLike, how: str = "weighted", weights: Sequence[float] = ()) -> NDArray[np.float64]:
    """[S, P, N] scores -> [P, N], what the pairs are made by.

    One scorer: its scores as they are. Several, by `how`:
        weighted: the weighted mean of their scores, standardised within each prompt; in standard deviations.
        rank: the weighted mean of the share of the prompt's other candidates beaten; 0..1.
        pareto: as weighted, all weights equal; who may meet whom is up to `dominating`.
        first: the first one's scores as they are; the others decide nothing.

    Raises:
        ValueError: a score is not finite.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(scores).all():
        scorer, prompt, candidate = np.argwhere(~np.isfinite(scores))[0]
        raise ValueError(f"scorer {scorer}, prompt {prompt}, candidate {candidate}: the score is not finite")
    if len(scores) == 1 or how == "first":
        return np.array(scores[0])
    _, n_prompts, n_candidates = scores.shape
    rows = scores.reshape(len(scores), -1)
    prompts = np.arange(n_prompts).repeat(n_candidates).tolist()
    combined = borda(rows, prompts, weights) if how == "rank" else weighted(rows, prompts, weights)
    return combined.reshape(n_prompts, n_candidates)


def dominating(scores: ArrayLike, combined: ArrayLike) -> NDArray[np.bool_]:
    """[S, P, N] scores and [P, N] combined -> [P, N, N]: whether the first is better by Pareto dominance.

    A dominance by less than the rounding of the combined values shows is none.
    """
    values = np.asarray(combined, dtype=np.float64)
    return dominance(scores) & (values[..., :, None] > values[..., None, :])


def preferences(
    scores: ArrayLike,
    strategy: str = "best-worst",
    min_margin: float = 0.0,
    how: str = "weighted",
    weights: Sequence[float] = (),
) -> list[Preference]:
    """[S, P, N] scores -> the pairs: `combine` by `how` and `weights`, then `make_pairs`."""
    combined = combine(scores, how, weights)
    better = dominating(scores, combined) if how == "pareto" else None
    return make_pairs(combined, strategy, min_margin, better)


def make_pairs(
    scores: ArrayLike,
    strategy: str = "best-worst",
    min_margin: float = 0.0,
    better: NDArray[np.bool_] | None = None,
) -> list[Preference]:
    """The preferences in combined scores [P, N], in the order of the prompts.

    Args:
        strategy: `best-worst`: one pair per prompt, its best candidate against its worst (of equals the first
            best and the last worst). `all`: every two candidates of a prompt.
        min_margin: closer pairs are left out, in the unit of `scores`; 0 keeps all, ties included.
        better: [P, N, N], the only (winner, loser) that may become pairs; `best-worst` then takes the one with the
            widest margin. None: any two.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if strategy not in STRATEGIES:
        raise unknown("way to pair", strategy, STRATEGIES)
    if scores.shape[-1] < 2:
        raise UserError(f"pairs need at least 2 candidates per prompt, not {scores.shape[-1]}")
    preferences = []
    for prompt, row in enumerate(scores):
        chosen = _candidates(row, strategy) if better is None else _among(better[prompt], row, strategy)
        for first, second in chosen:
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


def _among(better: NDArray[np.bool_], row: NDArray[np.float64], strategy: str) -> list[tuple[int, int]]:
    """As `_candidates`, of those (winner, loser) that `better` [N, N] allows."""
    allowed = [(int(winner), int(loser)) for winner, loser in np.argwhere(better)]
    if strategy == "best-worst" and allowed:
        allowed = [max(allowed, key=lambda pair: (row[pair[0]] - row[pair[1]], -pair[0], pair[1]))]
    return sorted((min(pair), max(pair)) for pair in allowed)
