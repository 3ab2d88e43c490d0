"""Who says which of two answers to a prompt is better: something that scores each, or a language model asked in words.

A reward model and a programmed rule score; see `llm_judge` for the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from diffdpo.data.text.records import Prompt, Reward, prompt_text
from diffdpo.errors import UserError


class Judged(NamedTuple):
    """Two answers to one prompt beside each other."""

    outcome: float
    """1 where ours is better, 0 where the baseline's is, 0.5 for a tie."""
    ours: float | None = None
    theirs: float | None = None
    """Their scores, from a judge that gives any."""

    def spelled(self) -> dict[str, float]:
        """As columns of `results.jsonl`."""
        if self.ours is None or self.theirs is None:
            return {"outcome": self.outcome}
        return {"outcome": self.outcome, "score": self.ours, "baseline_score": self.theirs}


class TextJudge(Protocol):
    def compare(self, prompts: Sequence[Prompt], ours: Sequence[str], theirs: Sequence[str]) -> list[Judged]: ...


@dataclass(frozen=True)
class ScoreJudge:
    """The answer of the higher score wins; equal scores tie."""

    name: str
    score: Reward

    def compare(self, prompts: Sequence[Prompt], ours: Sequence[str], theirs: Sequence[str]) -> list[Judged]:
        """Raises UserError for a score that is not finite."""
        both = [self._finite(prompts, answers) for answers in (ours, theirs)]
        return [Judged(0.5 + ((a > b) - (a < b)) / 2, a, b) for a, b in zip(*both, strict=True)]

    def _finite(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> Sequence[float]:
        scores = self.score(prompts, answers)
        if len(scores) != len(answers):
            raise UserError(f"judge {self.name}: gave {len(scores)} scores for {len(answers)} answers")
        for prompt, score in zip(prompts, scores, strict=True):
            if not math.isfinite(score):
                raise UserError(f"judge {self.name}: gave {score} to an answer to {prompt_text(prompt)[:60]!r}")
        return scores
