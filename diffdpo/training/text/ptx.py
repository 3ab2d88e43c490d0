"""PPO-ptx's own stream of plain text."""

from __future__ import annotations

from collections.abc import Sequence

from diffdpo.data.text.tokens import Tokens
from diffdpo.objectives.draws import derived_seed
from diffdpo.training.order import Order


class TextStream:
    """Which texts go with which answer: a function of the answer's place alone.

    Args:
        texts: tokenised.
        epochs: passes that PPO makes over an answer; each has texts of its own.
        per_answer: texts beside an answer.
    """

    def __init__(self, texts: Sequence[Tokens], *, epochs: int, per_answer: int, seed: int) -> None:
        self.texts, self.epochs, self.per_answer = texts, epochs, per_answer
        self.order = Order(len(texts), 1, derived_seed("ptx", seed) % 2**31)

    def beside(self, examples: Sequence[tuple[int, int]]) -> list[Tokens]:
        """The texts of some (answer, pass); `per_answer` each."""
        found = []
        for number, epoch in examples:
            first = (number * self.epochs + epoch) * self.per_answer
            found += [self.texts[row] for row, _ in self.order.between(first, first + self.per_answer)]
        return found
