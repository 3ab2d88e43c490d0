"""The things that go wrong in preference tuning, each as it shows in a run's figures. Nothing here looks at images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import sqrt
from statistics import fmean, variance

from diffdpo.training.guard import SKIPPED

WINNER_ERROR = "error/chosen_vs_ref"
ACCURACIES = ("rewards/accuracies", "accuracy")

LOGS = 6
"""Logged lines that are compared with as many before them."""
FAIR = 0.55
"""An accuracy that is surely below this is near the 50 % of a coin."""
DRIFTED = 0.25
"""Share of the base model's saturation or contrast by which the grids' may differ from it."""
GRIDS = 3
"""Grids in a row at which a score must fall; of four numbers that only chance orders, one in 24 times."""


class WinnerError:
    """The known failure of Diffusion-DPO: both errors grow while the margin improves."""

    quiet = 3 * LOGS  # one line that is out of the way is among those compared for 12
    words = (
        "the error on the winners is above the reference's and rising: the model gets worse at the chosen images too; "
        "lower training.learning_rate, raise loss.beta or set loss.winner_safeguard"
    )

    def __init__(self) -> None:
        self.values: list[float] = []

    def hear(self, step: float, figures: Mapping[str, float]) -> bool | None:
        if WINNER_ERROR not in figures:
            return None
        self.values.append(figures[WINNER_ERROR])
        return rising(self.values)


class StuckAccuracy:
    """After a third of the run; of the later half of the lines, for the first steps cannot be any better.

    Args:
        steps: of the whole run.
    """

    quiet = LOGS
    words = (
        "the training accuracy is still near 50%: the model does not tell winners from losers; look at the labels, "
        "or raise training.learning_rate"
    )

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.values: list[float] = []

    def hear(self, step: float, figures: Mapping[str, float]) -> bool | None:
        heard = [figures[name] for name in ACCURACIES if name in figures]
        self.values += heard
        late = self.values[len(self.values) // 2 :]
        if not heard or step < self.steps / 3 or len(late) < LOGS:
            return None
        return fmean(late) + 2 * _error(late) < FAIR


class Drift:
    """At two grids in a row, so that one odd grid is none.

    Args:
        name: what drifts: `saturation` or `contrast`.
    """

    quiet = 2

    def __init__(self, name: str) -> None:
        self.key = f"drift/{name}"
        self.words = (
            f"the {name} of the sample images has moved by more than {DRIFTED:.0%} from the base model's: the look "
            "changes rather than what is shown; look at samples/, raise loss.beta, or lower training.learning_rate or "
            "training.steps"
        )
        self.values: list[float] = []

    def hear(self, step: float, figures: Mapping[str, float]) -> bool | None:
        if self.key not in figures:
            return None
        self.values.append(figures[self.key])
        return len(self.values) > 1 and min(abs(value) for value in self.values[-2:]) > DRIFTED


class FallingScore:
    """While the training accuracy rises: what is learnt from the pairs is not what this judge likes.

    Args:
        scorer: as in `samples/<scorer>`, which is also the base model's at step 0.
    """

    quiet = 2

    def __init__(self, scorer: str) -> None:
        self.key = f"samples/{scorer}"
        self.words = (
            f"{scorer} scores the sample images lower from grid to grid while the training accuracy rises: the model "
            "learns the pairs at the images' cost; raise loss.beta, lower training.learning_rate, stop earlier, or "
            "check the labels"
        )
        self.scores: list[float] = []
        self.accuracies: list[list[float]] = [[]]
        """Of the lines between two grids."""

    def hear(self, step: float, figures: Mapping[str, float]) -> bool | None:
        self.accuracies[-1] += [figures[name] for name in ACCURACIES if name in figures]
        if self.key not in figures:
            return None
        self.scores.append(figures[self.key])
        last = self.scores[-GRIDS - 1 :]
        falls = len(last) > GRIDS and all(a > b for a, b in pairwise(last))
        there = falls and last[-1] < self.scores[0] and self._accuracy_rises()
        self.accuracies.append([])
        return there

    def _accuracy_rises(self) -> bool:
        """Over the time in which the score fell: its later half against its earlier one."""
        heard = [value for between in self.accuracies[-GRIDS:] for value in between]
        half = len(heard) // 2
        return half > 0 and fmean(heard[half:]) > fmean(heard[:half])


class Skipping:
    """Steps that were not taken; see `guard`."""

    quiet = LOGS
    words = (
        "steps were left out because their loss or gradient was not finite; a few are harmless, and with fp16 the "
        "first ones only find its scale; if it goes on, lower training.learning_rate or loss.beta, or use bf16"
    )

    def __init__(self) -> None:
        self.total = 0.0

    def hear(self, step: float, figures: Mapping[str, float]) -> bool | None:
        if SKIPPED not in figures:
            return None
        more = figures[SKIPPED] > self.total
        self.total = figures[SKIPPED]
        return more


def rising(values: Sequence[float]) -> bool:
    """Whether the last values are above 0, and above those before them by more than chance would have it."""
    before, last = values[-2 * LOGS : -LOGS], values[-LOGS:]
    if len(before) < LOGS or min(last) <= 0:
        return False
    return fmean(last) - fmean(before) > 3 * sqrt(_error(before) ** 2 + _error(last) ** 2)


def _error(values: Sequence[float]) -> float:
    """Of the mean."""
    return sqrt(variance(values) / len(values))
