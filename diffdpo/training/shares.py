"""How the pairs of an optimiser step are shared out. What a run learns depends on their number alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from diffdpo.errors import UserError
from diffdpo.training import processes

T = TypeVar("T")


def dealt(places: Sequence[T], size: int, rank: int, n: int) -> list[Sequence[T]]:
    """One process's share of a step, by micro-steps.

    Neighbours share a micro-step, and are dealt out in turn: of a step sorted by length no process has the long ones.

    Args:
        places: of the whole step, a multiple of `size * n`.
        size: examples per process and micro-step.
        rank: of `n` processes.
    """
    return [places[first : first + size * n][rank::n] for first in range(0, len(places), size * n)]


@dataclass(frozen=True)
class Shares:
    """Who computes which examples of a step, and when.

    Args:
        size: examples per process and micro-step.
        accumulation: micro-steps.
        count, index: of the processes, and which of them this is.
    """

    size: int
    accumulation: int
    count: int = 1
    index: int = 0

    @property
    def together(self) -> int:
        """Examples of a micro-step, over all processes."""
        return self.size * self.count

    @property
    def step(self) -> int:
        """Examples of an optimiser step."""
        return self.together * self.accumulation

    def smaller(self) -> Shares | None:
        """The same step by half as many at a time, or the next whole part of an odd number; None of single ones."""
        if self.size == 1:
            return None
        parts = next(parts for parts in range(2, self.size + 1) if self.size % parts == 0)
        return replace(self, size=self.size // parts, accumulation=self.accumulation * parts)


def in_one(training: dict[str, Any]) -> dict[str, Any]:
    """The `training` section with all pairs of a step in one batch, however they are shared out."""
    kept = {key: value for key, value in training.items() if key != "pairs_per_step"}
    step = training.get("pairs_per_step") or training["batch_size"] * training["accumulation"] * processes.count()
    return {**kept, "batch_size": step, "accumulation": 1}


def check_step(place: object, there: int, now: int) -> None:
    """Raise UserError, and say what to set, if a run goes on with another number of pairs per step.

    Args:
        place: the run's folder.
        there, now: pairs per step that it was started with, and of this start.
    """
    if there == now:
        return
    n = processes.count()
    if there % n == 0:
        share = f"training.batch_size times training.accumulation must be {there // n}"
        share += f", or training.pairs_per_step {there}"
        advice = share if n == 1 else f"with {n} processes {share}"
    else:
        fitting = [str(number) for number in range(1, there + 1) if there % number == 0 and number < 2 * n]
        advice = f"{n} processes cannot share them evenly; start {' or '.join(fitting)}"
    raise UserError(f"{place}: made with {there} pairs per step, now {now}; {advice}")
