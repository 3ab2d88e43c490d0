"""Answers of a policy: their exact reward, their KL to the model that tuning began with; and its grip on plain text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from diffdpo.benchmarks.text.likelihood import Likelihood
from diffdpo.benchmarks.text.speaker import Speaker
from diffdpo.data.text.tokens import Encoder
from diffdpo.models.text.causal_lm import CausalLM
from diffdpo.models.text.generation import Decoding, answer_seed

BATCH = 128
"""Answers drawn together."""


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


def draw(
    policy: CausalLM,
    reference: CausalLM,
    prompts: Sequence[str],
    reward: Callable[[Sequence[str], Sequence[str]], Sequence[float]],
    *,
    seed: int = 0,
    draws: int = 1,
    max_tokens: int = 96,
) -> Drawn:
    """Answers at temperature 1, each a function of the seed, its prompt and its draw."""
    encoder = Encoder.of(policy.tokenizer, policy.path)
    how = Decoding(max_tokens, batch_size=BATCH)
    ours, theirs = (Speaker(Likelihood(model, encoder), how) for model in (policy, reference))
    asked = [prompt for prompt in prompts for _ in range(draws)]
    seeds = [answer_seed("measured", seed, prompt, d) for prompt in prompts for d in range(draws)]
    written = ours.answers(asked, seeds)
    texts, tokens = [answer.text for answer in written], [answer.tokens for answer in written]
    logps = ours.logps(tokens)
    return Drawn(
        draws,
        texts,
        [float(value) for value in reward(asked, texts)],
        [own - ref for own, ref in zip(logps, logps if reference is policy else theirs.logps(tokens), strict=True)],
        [sequence.n_completion for sequence in tokens],
        [answer.ended for answer in written],
    )


def plain_text_losses(model: CausalLM, texts: Sequence[str]) -> list[float]:
    """Of every text the mean negative log-likelihood of a token, end token included, in nats."""
    found = Likelihood(model, Encoder.of(model.tokenizer, model.path)).texts(texts)
    return [-logp / n for logp, n in found]
