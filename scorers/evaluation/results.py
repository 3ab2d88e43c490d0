"""From the splits of a test set to accuracies: scores every image, applies the set's rule, adds the interval."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scorers.errors import ScorerError
from scorers.evaluation.interval import per_prompt, ratio_interval
from scorers.evaluation.protocols import (
    PUBLISHED_THRESHOLDS,
    Credit,
    best_threshold,
    ordered_pairs_credit,
    pair_points,
    probability_gap,
    ranking_credit,
)
from scorers.evaluation.readers import Example, Split
from scorers.stream import Item, Scored, score_items

if TYPE_CHECKING:
    from scorers.base import Scorer
    from scorers.evaluation import Progress

Array = NDArray[np.float64]

_CREDITS = {"hpdv2": ranking_credit, "imagereward": ordered_pairs_credit}


@dataclass(frozen=True)
class Accuracy:
    """How often one scorer prefers what people preferred."""

    scorer: str
    accuracy: float
    """0..1, by the test set's own rule."""
    interval: tuple[float, float]
    """95%, by a bootstrap over prompts: see `scorers.evaluation.interval`."""
    prompts: int
    """Distinct prompts that count: of imagereward only those whose images people do not all tie."""
    comparisons: int
    """What the accuracy is over: rankings of hpdv2, pairs of images of the others."""
    settings: dict[str, Any]
    """The scorer's."""
    threshold: float | None = None
    """Of pairs: a tie is predicted where the two probabilities differ by no more."""
    tuning_accuracy: float | None = None
    """Of pickapic: the accuracy on validation_unique, for which the threshold was chosen."""
    note: str | None = None


@dataclass(frozen=True)
class Skipped:
    """An image that could not be scored, and with it its prompt's other images."""

    item: str
    reason: str


@dataclass(frozen=True)
class Evaluation:
    """`accuracies` in the order of the scorers."""

    test_set: str
    accuracies: list[Accuracy]
    skipped: list[Skipped]


@dataclass
class _Judged:
    """What was scored of a split, an entry per example."""

    prompts: list[str] = field(default_factory=list)
    ranks: list[tuple[float, ...]] = field(default_factory=list)
    """[n] each, n images."""
    scores: list[Array] = field(default_factory=list)
    """[S, n] each, S scorers."""

    def pairs(self, scorer: int) -> tuple[Array, Array]:
        """Of examples with two images: p1 - p0 [N], and 1, -1 or 0 for image 1, image 0 or a tie [N]."""
        ranks = np.array(self.ranks)
        return probability_gap([scores[scorer] for scores in self.scores]), np.sign(ranks[:, 0] - ranks[:, 1])


def measure(
    scorers: Sequence[Scorer],
    test_set: str,
    splits: Sequence[Split],
    on_error: str,
    thresholds: str,
    resamples: int,
    seed: int,
    progress: Progress,
) -> Evaluation:
    """See `scorers.evaluate`, which has checked the arguments."""
    skipped: list[Skipped] = []
    judged = [_judge(scorers, split, on_error, skipped, progress) for split in splits]
    accuracies = []
    for number, scorer in enumerate(scorers):
        if test_set in _CREDITS:
            credits, more = _of_rankings(test_set, judged[-1], number), dict[str, Any]()
        else:
            credits, more = _of_pairs(judged, number, thresholds)
        points, weight = per_prompt(judged[-1].prompts, credits)
        interval = ratio_interval(points, weight, resamples, seed)
        value, comparisons = float(points.sum() / weight.sum()), int(weight.sum())
        settings = dict(scorer.settings)
        accuracies.append(Accuracy(scorer.name, value, interval, len(points), comparisons, settings, **more))
    return Evaluation(test_set, accuracies, skipped)


def _judge(
    scorers: Sequence[Scorer], split: Split, on_error: str, skipped: list[Skipped], progress: Progress
) -> _Judged:
    judged = _Judged()
    with progress(split.name, split.images) as advance:
        for example, results in _by_example(scorers, split):
            failing = [result for result in results if result.error is not None]
            for result in failing:
                if on_error == "stop":
                    raise ScorerError(f"{result.item.name}: {result.error}")
                skipped.append(Skipped(result.item.name, str(result.error)))
            if not failing:
                judged.prompts.append(example.prompt)
                judged.ranks.append(example.ranks)
                judged.scores.append(np.array([result.scores for result in results]).T)
            advance(len(results))
    if not judged.prompts:
        raise ScorerError(f"{split.name}: nothing could be scored; {skipped[0].item}: {skipped[0].reason}")
    return judged


def _by_example(scorers: Sequence[Scorer], split: Split) -> Iterator[tuple[Example, list[Scored]]]:
    """Batches of images do not end where examples do: puts the results together again."""
    waiting: deque[Example] = deque()

    def items() -> Iterator[Item]:
        for example in split.examples():
            waiting.append(example)
            yield from example.items

    results: list[Scored] = []
    for result in score_items(scorers, items()):
        results.append(result)
        if len(results) == len(waiting[0].items):
            yield waiting.popleft(), results
            results = []


def _of_rankings(test_set: str, judged: _Judged, scorer: int) -> list[Credit]:
    credit = _CREDITS[test_set]
    return [credit(scores[scorer], ranks) for scores, ranks in zip(judged.scores, judged.ranks, strict=True)]


def _of_pairs(judged: Sequence[_Judged], scorer: int, thresholds: str) -> tuple[list[Credit], dict[str, Any]]:
    """The credits of the last split, with a threshold from the first one; without a first one it is 0."""
    gap, verdict = judged[-1].pairs(scorer)
    more: dict[str, Any] = {"threshold": 0.0}
    if len(judged) > 1:
        more = _tuned(*judged[0].pairs(scorer), thresholds)
    return [Credit(float(points), 1) for points in pair_points(gap, verdict, more["threshold"])], more


def _tuned(gap: Array, verdict: Array, thresholds: str) -> dict[str, Any]:
    threshold = best_threshold(gap, verdict, PUBLISHED_THRESHOLDS if thresholds == "published" else None)
    accuracy = float(pair_points(gap, verdict, threshold).mean())
    note = None
    if thresholds == "published" and np.abs(gap).max() <= PUBLISHED_THRESHOLDS[1]:
        note = (
            f"the probabilities differ by {np.abs(gap).max():.2g} at most, so that every published threshold but 0 "
            "makes all pairs ties; thresholds='all' suits this scorer's scale"
        )
    return {"threshold": threshold, "tuning_accuracy": accuracy, "note": note}
