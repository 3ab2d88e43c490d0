"""What a reward says of answers that a model has just drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from diffdpo.data.text.examples import Example
from diffdpo.data.text.records import Reward, prompt_text
from diffdpo.data.text.tokens import Encoder
from diffdpo.errors import UserError
from diffdpo.models.text.generation import Answer, answer_text

OpenReward = Callable[[str, torch.device], Reward]
"""A source as in `reward.source`, and a device, to what scores answers: handed in, for no program is known here."""


def scored(
    reward: Reward, source: str, encoder: Encoder, asked: Sequence[Example], answers: Sequence[Answer]
) -> list[float]:
    """The scores of answers to the queries of `asked`; 0 for those that did not end, which are not scored.

    Args:
        source: what the reward is called, for messages.

    Raises:
        UserError: too few scores, or one that is no finite number.
    """
    ended = [place for place, answer in enumerate(answers) if answer.ended]
    queries = [asked[place].query or "" for place in ended]
    texts = [answer_text(encoder.tokenizer, asked[place].answers[0].ids, answers[place].ids) for place in ended]
    found = list(reward(queries, texts)) if ended else []
    if len(found) != len(ended):
        raise UserError(f"reward {source} gave {len(found)} scores for {len(ended)} answers")
    scores = [0.0] * len(answers)
    for place, query, text, score in zip(ended, queries, texts, found, strict=True):
        if not math.isfinite(score):
            raise UserError(
                f"reward {source} gave {score} for the answer {text[:80]!r} to {prompt_text(query)[:80]!r}; a score "
                "must be a finite number"
            )
        scores[place] = float(score)
    return scores
