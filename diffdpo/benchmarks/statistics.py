"""Intervals and tests for values measured on the same prompts. Pure numpy; knows nothing of images or runs.

Every interval is a bootstrap over prompts, percentile method, with the percentiles widened for small samples
(Hesterberg 2015, "What teachers should know about the bootstrap"): instead of alpha/2 the tails hold
Phi(-sqrt(n / (n - 1)) * t(1 - alpha/2, n - 1)), which gives a mean of few values the width of a t interval.

Why percentile and not BCa: it cannot leave the range of the values (a rate stays in 0..1), swapping the two sides
mirrors it to the last bit, and BCa's correction is of order 1/n where the benchmarks have hundreds of prompts; BCa is
also undefined where all resamples agree, as they do for two equal runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

RESAMPLES = 10_000
CONFIDENCE = 0.95
ALPHA = 0.05
"""A win is declared if chance alone would declare any in at most so many comparisons of equal models."""
_CHUNK = 2_000_000
"""Values gathered at a time, so that memory does not grow with the number of prompts."""

Floats = NDArray[np.float64]
Verdict = Literal["up", "down", "unclear", "no change"]


@dataclass(frozen=True)
class Interval:
    """A confidence interval, both ends included, in the unit of what it belongs to."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` prompts and its interval."""

    mean: float
    interval: Interval
    n: int


@dataclass(frozen=True)
class Wins:
    """How often B is above A on the same prompt. Ties are exact equality and count half in the rate."""

    wins: int
    ties: int
    losses: int
    rate: Estimate
    """(wins + ties / 2) / n, in 0..1; one half means neither is better."""
    p_value: float
    """Two-sided sign test, ties left out; for values that are only 0 or 1 it is McNemar's exact test."""


@dataclass(frozen=True)
class Contrast:
    """One measure on both sides of a comparison. `difference` is B - A, prompt by prompt."""

    a: Estimate
    b: Estimate
    difference: Estimate
    wins: Wins


def mean_estimate(
    values: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> Estimate:
    """The mean of `values` [n] with its interval by bootstrap; n is at least 2.

    Booleans that are all equal resample to themselves, which would claim certainty: they get Wilson's interval.
    """
    checked = _checked(values, "values")
    if np.asarray(values).dtype == np.bool_ and np.all(checked == checked[0]):
        return Estimate(float(checked[0]), _wilson(checked, confidence), len(checked))
    return _estimate(checked, seed, resamples, confidence)


def paired_difference(
    a: ArrayLike, b: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> Estimate:
    """The mean of `b - a`, both [n] over the same prompts, with its interval: prompts are resampled, not values.

    Equal inputs give exactly 0 in [0, 0]; swapping `a` and `b` gives exactly the negative, since the same seed draws
    the same prompts.
    """
    left, right = _pair(a, b)
    return _estimate(right - left, seed, resamples, confidence)


def wins(
    a: ArrayLike, b: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> Wins:
    """How often `b` is above `a`, both [n] over the same prompts; more is better."""
    left, right = _pair(a, b)
    signs = np.sign(right - left)
    # Resampled as -1, 0, 1 and only then turned into a rate, so that the two sides mirror.
    net = _estimate(signs, seed, resamples, confidence)
    rate = Interval((1 + net.interval.low) / 2, (1 + net.interval.high) / 2)
    if abs(net.mean) == 1:  # one side won everywhere: see `mean_estimate`
        rate = _wilson((1 + signs) / 2, confidence)
    n_wins, n_losses = int((signs > 0).sum()), int((signs < 0).sum())
    return Wins(
        wins=n_wins,
        ties=len(signs) - n_wins - n_losses,
        losses=n_losses,
        rate=Estimate((1 + net.mean) / 2, rate, net.n),
        p_value=sign_test(n_wins, n_losses),
    )


def contrast(
    a: ArrayLike, b: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> Contrast:
    """Everything about one measure on the same prompts before (`a` [n]) and after (`b` [n])."""
    options = {"seed": seed, "resamples": resamples}
    return Contrast(
        a=mean_estimate(a, **options, confidence=confidence),
        b=mean_estimate(b, **options, confidence=confidence),
        difference=paired_difference(a, b, **options, confidence=confidence),
        wins=wins(a, b, **options, confidence=confidence),
    )


def sign_test(n_wins: int, n_losses: int) -> float:
    """Two-sided p-value that wins and losses are equally likely; 1 where there is neither."""
    if n_wins + n_losses == 0:
        return 1.0
    # The smaller count, whichever side it is, so that swapping the sides changes nothing.
    return min(1.0, 2 * float(special.bdtr(min(n_wins, n_losses), n_wins + n_losses, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction for looking at several measures (Holm 1979), in the order given."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def verdict(difference: Estimate, p_value: float | None = None) -> Verdict:
    """Whether a difference is a finding.

    Args:
        p_value: of the sign test, corrected for all measures that are looked at. Where it is given, a finding takes
            both: an interval without zero, which a few prompts can give, and a p-value below `ALPHA`, which can come
            with a mean that did not move. The correction then holds for the findings, however many measures there are.
    """
    if difference.mean == difference.interval.low == difference.interval.high == 0:
        return "no change"
    if not difference.interval.excludes_zero or (p_value is not None and p_value >= ALPHA):
        return "unclear"
    return "up" if difference.mean > 0 else "down"


def _estimate(values: Floats, seed: int, resamples: int, confidence: float) -> Estimate:
    n = len(values)
    means = np.concatenate([values[rows].mean(axis=1) for rows in _resampled(n, seed, resamples)])
    means.sort()
    # Order statistics from both ends, not interpolated percentiles: these mirror exactly.
    tail = max(1, int(_tail(n, confidence) * (resamples + 1)))
    return Estimate(float(values.mean()), Interval(float(means[tail - 1]), float(means[resamples - tail])), n)


@lru_cache
def _tail(n: int, confidence: float) -> float:
    """The share of resamples beyond either end of an interval for the mean of `n` values."""
    return float(stats.norm.cdf(-np.sqrt(n / (n - 1)) * stats.t.ppf((1 + confidence) / 2, n - 1)))


def _resampled(n: int, seed: int, resamples: int) -> Iterator[NDArray[np.int32]]:
    """Rows of `n` prompt numbers drawn with replacement, `resamples` of them in all, some at a time."""
    rows = max(1, _CHUNK // n)
    for chunk, start in enumerate(range(0, resamples, rows)):
        yield _draw(n, seed, chunk, min(rows, resamples - start))


@lru_cache(maxsize=4)
def _draw(n: int, seed: int, chunk: int, rows: int) -> NDArray[np.int32]:
    return np.random.default_rng([seed, chunk]).integers(n, size=(rows, n), dtype=np.int32)


def _wilson(values: Floats, confidence: float) -> Interval:
    result = stats.binomtest(int(values.sum()), len(values)).proportion_ci(confidence, method="wilson")
    return Interval(float(result.low), float(result.high))


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    left, right = _checked(a, "a"), _checked(b, "b")
    if len(left) != len(right):
        raise ValueError(f"a holds {len(left)} values and b {len(right)}: they must be of the same prompts")
    return left, right


def _checked(values: ArrayLike, name: str) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < 2:
        raise ValueError(f"{name}: an interval needs one value for each of at least 2 prompts, not shape {array.shape}")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(f"{name}: value {row} is {array[row]}, which has no mean")
    return array
