"""What a run's own figures say is going wrong, in words: once, and again if it comes back after it was over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from diffdpo.training.guard import SKIPPED
from diffdpo.training.symptoms import Drift, FallingScore, Skipping, StuckAccuracy, WinnerError


class Symptom(Protocol):
    """A thing to look for in the lines of metrics.jsonl, of which it is a function."""

    words: str
    quiet: int
    """Times in a row that it must be gone before its alarm is over."""

    def hear(self, step: float, figures: Mapping[str, float]) -> bool | None:
        """Whether it is there after this line; None where the line says nothing of it."""
        ...


class Alarms:
    """Fed with the lines of metrics.jsonl one after the other, of which it is a function: resuming feeds them again.

    Args:
        steps: of the whole run.
    """

    def __init__(self, steps: int) -> None:
        self.symptoms: dict[str, Symptom] = {
            "winner_error": WinnerError(),
            "accuracy": StuckAccuracy(steps),
            "saturation": Drift("saturation"),
            "contrast": Drift("contrast"),
            SKIPPED: Skipping(),
        }
        self._quiet: dict[str, int] = {}
        """Of the alarms that are on: how often in a row their symptom was gone."""

    def hear(self, step: float, figures: Mapping[str, float]) -> dict[str, str]:
        """Take in a line. Returns the alarms that it raises, their words by name."""
        for name in figures:
            kind, _, scorer = name.partition("/")
            if kind == "samples" and scorer:
                self.symptoms.setdefault(f"score/{scorer}", FallingScore(scorer))
        found = {name: symptom.hear(step, figures) for name, symptom in self.symptoms.items()}
        return {name: self.symptoms[name].words for name, there in found.items() if self._raises(name, there)}

    def _raises(self, name: str, there: bool | None) -> bool:
        if there is None:
            return False
        if there:
            new = name not in self._quiet
            self._quiet[name] = 0
            return new
        if name in self._quiet:
            self._quiet[name] += 1
            if self._quiet[name] >= self.symptoms[name].quiet:
                del self._quiet[name]
        return False
