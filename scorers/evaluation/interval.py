"""A ratio of sums over prompts and its 95% interval, by resampling the prompts. Pure numpy.

Percentile bootstrap (Efron 1979): the prompts are drawn again with replacement, all that belongs to a prompt
going with it, the ratio is taken anew, and the interval holds the middle 95% of the results. It covers the
choice of prompts, not that of the people who judged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scorers.errors import ScorerError
from scorers.evaluation.protocols import Credit

_Z = 1.959963984540054
"""The 97.5% point of the normal distribution."""

_DRAWS_AT_A_TIME = 2_000_000


def per_prompt(prompts: Sequence[str], credits: Sequence[Credit]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points and weight of every prompt that weighs anything, [P] each: what is resampled together."""
    sums: dict[str, list[float]] = {}
    for prompt, credit in zip(prompts, credits, strict=True):
        total = sums.setdefault(prompt, [0.0, 0.0])
        total[0] += credit.points
        total[1] += credit.weight
    kept = np.array([total for total in sums.values() if total[1] > 0], dtype=np.float64).reshape(-1, 2)
    return kept[:, 0], kept[:, 1]


def ratio_interval(
    points: NDArray[np.float64], weight: NDArray[np.float64], resamples: int, seed: int
) -> tuple[float, float]:
    """The interval of `points.sum() / weight.sum()`, both [P], in 0..1.

    Where every prompt is wholly right (or wrong), resampling would claim certainty: Wilson's interval instead,
    with one draw per prompt.

    Raises:
        ScorerError: fewer than two prompts.
    """
    n = len(points)
    if n < 2:
        raise ScorerError(f"{n} prompts with images that people ranked differently: an interval needs at least 2")
    ratio = points.sum() / weight.sum()
    if ratio in (0, 1):
        edge = _Z**2 / (n + _Z**2)
        return (0.0, edge) if ratio == 0 else (1 - edge, 1.0)
    rng = np.random.default_rng(seed)
    ratios = []
    for rows in _sizes(resamples, max(1, _DRAWS_AT_A_TIME // n)):
        drawn = rng.integers(n, size=(rows, n))
        ratios.append(points[drawn].sum(axis=1) / weight[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(ratios), [0.025, 0.975])
    return float(low), float(high)


def _sizes(total: int, most: int) -> list[int]:
    return [min(most, total - start) for start in range(0, total, most)]
