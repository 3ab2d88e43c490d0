"""Answers of a policy: their exact reward, their KL to the model that tuning began with; and its grip on plain text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from diffdpo.data.text.batch import pad
from diffdpo.data.text.tokens import Encoder, Tokens
from diffdpo.models.text.causal_lm import CausalLM
from diffdpo.models.text.generation import Answer, Decoding, answer_seed, answer_text, generate

Reward = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
"""Prompts and answers to scores."""

BATCH = 128
"""Sequences looked at together."""


@dataclass(frozen=True)
class Drawn:
    """Answers, prompt by prompt and draw by draw: `prompts[i]` has places i * draws to (i + 1) * draws - 1.

    Attributes:
        kls: log pi - log pi_ref of each, nats; their mean estimates KL(policy || reference).
        lengths: tokens.
    """

    draws: int
    texts: list[str]
    rewards: list[float]
    kls: list[float]
    lengths: list[int]
    ended: list[bool]


@torch.no_grad()
def draw(
    policy: CausalLM,
    reference: CausalLM,
    prompts: Sequence[str],
    reward: Reward,
    *,
    seed: int = 0,
    draws: int = 1,
    max_tokens: int = 96,
) -> Drawn:
    """Answers at temperature 1, each a function of the seed, its prompt and its draw."""
    encoder = Encoder.of(policy.tokenizer, policy.path)
    asked = [prompt for prompt in prompts for _ in range(draws)]
    ids = [encoder.prompt(policy.path, prompt) for prompt in asked]
    seeds = [answer_seed("measured", seed, prompt, d) for prompt in prompts for d in range(draws)]
    how = Decoding(max_tokens, batch_size=BATCH)
    answers = generate(policy.lm, ids, seeds, how, end=encoder.end, filler=encoder.pad)
    texts = [answer_text(policy.tokenizer, own, answer.ids) for own, answer in zip(ids, answers, strict=True)]
    sequences = [_joined(own, answer) for own, answer in zip(ids, answers, strict=True)]
    theirs = log_likelihoods(reference, sequences, encoder.pad)
    return Drawn(
        draws,
        texts,
        [float(value) for value in reward(asked, texts)],
        [sum(answer.logps) - ref for answer, ref in zip(answers, theirs, strict=True)],
        [len(answer.ids) for answer in answers],
        [answer.ended for answer in answers],
    )


@torch.no_grad()
def plain_text_losses(model: CausalLM, texts: Sequence[str]) -> list[float]:
    """Of every text the mean negative log-likelihood of a token, end token included, in nats."""
    encoder = Encoder.of(model.tokenizer, model.path)
    sequences = [encoder.document(text) for text in texts]
    sums = log_likelihoods(model, sequences, encoder.pad)
    return [-total / tokens.n_completion for total, tokens in zip(sums, sequences, strict=True)]


@torch.no_grad()
def log_likelihoods(model: CausalLM, sequences: Sequence[Tokens], filler: int) -> list[float]:
    """The sum over each sequence's marked tokens, in their order."""
    found = [0.0] * len(sequences)
    order = sorted(range(len(sequences)), key=lambda place: len(sequences[place].ids))
    for start in range(0, len(order), BATCH):
        places = order[start : start + BATCH]
        batch = pad([sequences[place] for place in places], filler)
        for place, total in zip(places, model.network(*batch).double().sum(1).tolist(), strict=True):
            found[place] = total
    return found


def _joined(prompt: Sequence[int], answer: Answer) -> Tokens:
    return Tokens((*prompt, *answer.ids), (*[False] * len(prompt), *[True] * len(answer.ids)))
