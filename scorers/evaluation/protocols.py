"""What counts as right: the rule of each test set, over scores and human ranks. Pure functions of numbers.

Scores: higher is better. Ranks: lower is better, equal ranks are a tie; n images of one prompt each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

PUBLISHED_THRESHOLDS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Those that PickScore's evaluation tries, on the difference of two probabilities."""


@dataclass(frozen=True)
class Credit:
    """What a prompt adds to both sides of the fraction `sum(points) / sum(weight)`."""

    points: float
    weight: float


def ranking_credit(scores: ArrayLike, ranks: ArrayLike) -> Credit:
    """HPDv2: 1 - inversions / (n (n - 1) / 2), every prompt counting the same.

    A pair is inverted where scores and ranks order it differently; one that people tie never is. A pair with
    equal scores and different ranks is half an inversion: the published code breaks such ties by position,
    of which this is the mean. Source: HPSv2, `inversion_score`.
    """
    predicted, human = _signs(scores, ranks)
    inverted = float((predicted * human < 0).sum()) + 0.5 * float(((predicted == 0) & (human != 0)).sum())
    return Credit(1 - inverted / len(human), 1)


def ordered_pairs_credit(scores: ArrayLike, ranks: ArrayLike) -> Credit:
    """ImageReward: the pairs ordered as people do, out of those they do not tie; equal scores are wrong.

    Every pair counts the same. Source: ImageReward, `test.py`.
    """
    predicted, human = _signs(scores, ranks)
    return Credit(float((predicted * human > 0).sum()), float((human != 0).sum()))


def probability_gap(scores: ArrayLike) -> Array:
    """Scores of both images [N, 2] -> p1 - p0 [N] of the softmax over the two: tanh((s1 - s0) / 2)."""
    pair = np.asarray(scores, dtype=np.float64)
    return np.asarray(np.tanh((pair[:, 1] - pair[:, 0]) / 2))


def pair_points(gap: ArrayLike, verdict: ArrayLike, threshold: float) -> Array:
    """Pick-a-Pic: 1 for the right one of three answers, half where one side alone says tie, else 0; [N].

    Args:
        gap: [N] p1 - p0; a tie is predicted where `abs(gap) <= threshold`.
        verdict: [N] 1 where people preferred image 1, -1 for image 0, 0 for a tie.

    Source: PickScore, `eval_preference_predictor.py`.
    """
    difference, people = np.asarray(gap, dtype=np.float64), np.sign(np.asarray(verdict, dtype=np.float64))
    predicted = np.where(np.abs(difference) <= threshold, 0.0, np.sign(difference))
    return np.asarray(1 - np.abs(predicted - people) / 2)


def best_threshold(gap: ArrayLike, verdict: ArrayLike, thresholds: Sequence[float] | None) -> float:
    """The threshold with the most points on (gap, verdict), the smallest of equals.

    None tries all that differ: 0 and every |gap|. It does not depend on the scorer's scale, as the published
    steps of 0.1 do: those suit scores such as PickScore's, in which one unit is a likelihood ratio of e.
    """
    size, people = np.abs(np.asarray(gap, dtype=np.float64)), np.asarray(verdict, dtype=np.float64)
    decided = pair_points(gap, people, -1.0)
    as_tie = pair_points(np.zeros_like(size), people, 0.0)
    order = np.argsort(size)
    gained = np.concatenate([[0.0], np.cumsum((as_tie - decided)[order])])
    tried = np.unique(np.append(size, 0.0)) if thresholds is None else np.asarray(thresholds, dtype=np.float64)
    # A threshold turns the pairs up to it into ties, whatever it is: one sort answers all of them.
    points = gained[np.searchsorted(size[order], tried, side="right")]
    return float(tried[int(points.argmax())])


def _signs(scores: ArrayLike, ranks: ArrayLike) -> tuple[Array, Array]:
    """Per pair of images i < j: 1 where j is the better one, -1 where i is, 0 for a tie; by scores, by ranks."""
    score, rank = np.asarray(scores, dtype=np.float64), np.asarray(ranks, dtype=np.float64)
    first, second = np.triu_indices(len(score), 1)
    return np.sign(score[second] - score[first]), np.sign(rank[first] - rank[second])
