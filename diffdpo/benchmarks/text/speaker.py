"""A language model that answers prompts, and says how likely it finds answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffdpo.benchmarks.text.likelihood import Likelihood
from diffdpo.data.text.records import Prompt
from diffdpo.data.text.tokens import Tokens
from diffdpo.models.text.generation import Decoding, answer_text, generate


@dataclass(frozen=True)
class Written:
    """One answer."""

    text: str
    tokens: Tokens
    """With its prompt, and its end token where it came."""
    ended: bool
    """Whether the end token came within the limit."""


class Speaker:
    def __init__(self, likelihood: Likelihood, decoding: Decoding) -> None:
        self.likelihood, self.decoding = likelihood, decoding

    def answers(self, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Written]:
        """One answer each.

        Raises:
            UserError: a prompt leaves no room for an answer, or is a conversation without a chat template.
        """
        model, encoder = self.likelihood.model, self.likelihood.encoder
        asked = [encoder.prompt("--prompts", prompt) for prompt in prompts]
        drawn = generate(model.lm, asked, seeds, self.decoding, end=encoder.end, filler=encoder.pad)
        return [
            Written(
                answer_text(encoder.tokenizer, before, answer.ids),
                Tokens.of(before, answer.ids),
                answer.ended,
            )
            for before, answer in zip(asked, drawn, strict=True)
        ]

    def logps(self, answers: Sequence[Tokens]) -> list[float]:
        """log p of answers, each behind its prompt, at the temperature they are drawn at (1 where that is 0)."""
        found = self.likelihood.sums([[tokens] for tokens in answers], temperature=self.decoding.temperature or 1.0)
        return [sums[0] for sums in found]
