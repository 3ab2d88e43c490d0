"""How often a scorer prefers what people preferred: its accuracy on published test sets, by each set's own rule.

    evaluation = scorers.evaluate([scorer], "hpdv2", "HPD")     # a folder with test.json and test/
    evaluation.accuracies[0].accuracy, evaluation.accuracies[0].interval

Importing this stays free of numpy and torch, like the package above.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scorers.errors import ScorerError

if TYPE_CHECKING:
    from scorers.base import Scorer
    from scorers.evaluation.results import Evaluation

TEST_SETS = ("hpdv2", "imagereward", "pickapic", "pairs")
"""The names that `evaluate` takes."""

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], Any]]]
"""(what, number of images) -> a context that yields a function to call with the images done."""


@contextmanager
def _silent(label: str, total: int) -> Iterator[Callable[[int], Any]]:
    yield lambda steps: None


def evaluate(
    scorers: Sequence[Scorer],
    test_set: str,
    data: str | Path,
    *,
    images: str | Path | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    thresholds: Literal["published", "all"] = "published",
    resamples: int = 10_000,
    seed: int = 0,
    progress: Progress = _silent,
) -> Evaluation:
    """The preference accuracy of each of `scorers`, which go through the images together, in bounded memory.

    Args:
        test_set: one of `TEST_SETS`; see `scorers.evaluation.protocols` for the rules.
        data: the folder of the published set (or its JSON file); for "pairs", a folder of Parquet pairs.
        images: where the image paths of a JSON file start; None = where the published set has them.
        on_error: what to do about an image that cannot be scored: stop, or leave its prompt out and say so.
        thresholds: of Pick-a-Pic, which are tried: 0, 0.1, ... 1 as published, or every one that differs.
        resamples, seed: of the bootstrap over prompts.

    Raises:
        ScorerError: the data is not as published, or an image cannot be scored; names the file and the entry.
    """
    from scorers.evaluation.readers import open_set
    from scorers.evaluation.results import measure

    if not scorers:
        raise ScorerError("nothing to evaluate: give at least one scorer")
    if on_error not in ("stop", "skip"):
        raise ScorerError(f"on_error must be 'stop' or 'skip', not {on_error!r}")
    if thresholds not in ("published", "all"):
        raise ScorerError(f"thresholds must be 'published' or 'all', not {thresholds!r}")
    splits = open_set(test_set, data, images, must_exist=on_error == "stop")
    return measure(scorers, test_set, splits, on_error, thresholds, resamples, seed, progress)
