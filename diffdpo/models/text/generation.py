"""Answers of a language model: drawn token by token with cached keys and values, many prompts at a time.

What is drawn for an answer is a function of its seed alone: neither the prompts beside it nor the side of the padding,
the number of processes or a restart move it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffdpo.errors import UserError
from diffdpo.models.text.loading import context_length
from diffdpo.objectives.draws import derived_seed


@dataclass(frozen=True)
class Decoding:
    """How answers are drawn.

    Attributes:
        max_tokens: of an answer, its end token with them.
        temperature: divides the logits; 0 takes the likeliest token.
        top_p: draw from the fewest likeliest tokens that have this share of the probability (Holtzman et al. 2020).
        batch_size: answers at a time.
    """

    max_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    batch_size: int = 32

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UserError(f"max_tokens: an answer needs at least 1 token, not {self.max_tokens}")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature: must be 0 or above, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p: must lie in (0, 1], not {self.top_p}")
        if self.batch_size < 1:
            raise UserError(f"batch_size: at least 1 answer at a time, not {self.batch_size}")


class Answer(NamedTuple):
    """What was drawn for one prompt."""

    ids: tuple[int, ...]
    """The end token with them, where it came."""
    logps: tuple[float, ...]
    """log pi of each at the temperature (at 1 where that is 0), of all tokens and not of the nucleus alone."""
    ended: bool
    """Whether the end token came within the limit."""


def generate(
    lm: Any, prompts: Sequence[Sequence[int]], seeds: Sequence[int], decoding: Decoding, *, end: int, filler: int
) -> list[Answer]:
    """One answer per prompt and seed, in their order.

    Args:
        lm: a causal language model of transformers.
        prompts: token ids, at least one each.
        seeds: of the noise; see `answer_seed`.
        end: id of the token that ends an answer.
        filler: id that fills up a batch.

    Raises:
        UserError: prompt and answer may be longer than the model was made for.
    """
    longest, context = max(map(len, prompts), default=0) + decoding.max_tokens, context_length(lm.config)
    if context is not None and longest > context:
        raise UserError(f"prompt and answer may have {longest} tokens, more than the model's {context}: ask for fewer")
    # Prompts of one length together leave little to fill up.
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    answers: dict[int, Answer] = {}
    with _inference(lm):
        for start in range(0, len(order), decoding.batch_size):
            places = order[start : start + decoding.batch_size]
            some = [prompts[place] for place in places]
            drawn = _Batch(lm, some, [seeds[place] for place in places], decoding, end, filler).drawn()
            answers.update(zip(places, drawn, strict=True))
    return [answers[place] for place in range(len(prompts))]


def answer_seed(*parts: object) -> int:
    """The seed of an answer, from all that is to tell it from others: a seed, its prompt, the number of the draw."""
    return derived_seed("answer", *parts)


def answer_text(tokenizer: Any, prompt: Sequence[int], answer: Sequence[int]) -> str:
    """The text that an answer adds to its prompt, without special tokens.

    Some tokenizers drop the space that a text begins with: hence the prompt.
    """
    before = tokenizer.decode(list(prompt), skip_special_tokens=True)
    whole = tokenizer.decode([*prompt, *answer], skip_special_tokens=True)
    if whole.startswith(before):
        return str(whole[len(before) :])
    return str(tokenizer.decode(list(answer), skip_special_tokens=True))


def pick(logits: Tensor, uniform: Tensor, temperature: float, top_p: float = 1.0) -> tuple[Tensor, Tensor]:
    """A token per row by inversion of the distribution function, and its log-probability under the whole distribution.

    Args:
        logits: [B, V].
        uniform: [B] in [0, 1).

    Returns:
        [B] int64, [B] float32.
    """
    logps = torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)
    if temperature == 0:
        tokens = logps.argmax(-1, keepdim=True)
    else:
        shares = nucleus(logps.to(uniform.dtype).exp(), top_p)
        reached = shares.cumsum(-1)
        tokens = torch.searchsorted(reached, uniform[:, None] * reached[:, -1:], right=True)
        tokens = tokens.clamp_max(logits.shape[-1] - 1)
    return tokens[:, 0], logps.gather(-1, tokens)[:, 0]


def nucleus(shares: Tensor, top_p: float) -> Tensor:
    """[B, V] probabilities with 0 outside of the fewest likeliest that have `top_p` together; not scaled up again."""
    if top_p >= 1:
        return shares
    ordered, places = torch.sort(shares, dim=-1, descending=True, stable=True)
    kept = ordered.cumsum(-1) - ordered < top_p
    return torch.zeros_like(shares).scatter(-1, places, ordered * kept)


class _Batch:
    """Answers that are drawn side by side. Those that have ended leave once they are half of the batch."""

    def __init__(
        self, lm: Any, prompts: Sequence[Sequence[int]], seeds: Sequence[int], how: Decoding, end: int, filler: int
    ) -> None:
        self.lm, self.how, self.end = lm, how, end
        self.known = inspect.signature(lm.forward).parameters
        self.fed, self.mask = _left_padded(prompts, filler, lm.device)
        self.uniform = _uniforms(seeds, how.max_tokens, lm.device)
        self.rows = torch.arange(len(prompts))
        self.cache: Any = None

    @torch.no_grad()
    def drawn(self) -> list[Answer]:
        n, length = len(self.rows), self.how.max_tokens
        ids = torch.zeros(n, length, dtype=torch.int64)
        logps = torch.zeros(n, length)
        counts = torch.full((n,), length)
        ended = torch.zeros(n, dtype=torch.bool)
        for place in range(length):
            tokens, found = pick(self._logits(), self.uniform[:, place], self.how.temperature, self.how.top_p)
            ids[self.rows, place], logps[self.rows, place] = tokens.cpu(), found.cpu()
            stops = (tokens == self.end).cpu() & ~ended[self.rows]
            counts[self.rows[stops]] = place + 1
            ended[self.rows[stops]] = True
            alive = ~ended[self.rows]
            if not alive.any():
                break
            self._feed(tokens)
            if alive.sum() <= len(alive) // 2:
                self._keep(alive.nonzero()[:, 0])
        columns = zip(ids.tolist(), logps.tolist(), counts.tolist(), ended.tolist(), strict=True)
        return [Answer(tuple(i[:count]), tuple(p[:count]), stopped) for i, p, count, stopped in columns]

    def _logits(self) -> Tensor:
        """[B, V], of the token that comes next."""
        inputs: dict[str, Any] = {"input_ids": self.fed, "attention_mask": self.mask, "use_cache": True}
        if "position_ids" in self.known:
            inputs["position_ids"] = (self.mask.cumsum(1) - 1).clamp_min(0)[:, -self.fed.shape[1] :]
        if "logits_to_keep" in self.known:
            inputs["logits_to_keep"] = 1
        if self.cache is not None:
            inputs["past_key_values"] = self.cache
        output = self.lm(**inputs)
        self.cache = output.past_key_values
        logits: Tensor = output.logits[:, -1]
        return logits

    def _feed(self, tokens: Tensor) -> None:
        self.fed = tokens[:, None]
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)

    def _keep(self, kept: Tensor) -> None:
        """Go on with some rows alone."""
        self.rows = self.rows[kept]
        kept = kept.to(self.mask.device)
        self.fed, self.mask, self.uniform = self.fed[kept], self.mask[kept], self.uniform[kept]
        self.cache.batch_select_indices(kept)


def _left_padded(prompts: Sequence[Sequence[int]], filler: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """[B, L] ids and mask, int64: all prompts end at the same place."""
    length = max(map(len, prompts))
    ids = torch.full((len(prompts), length), filler)
    mask = torch.zeros(len(prompts), length, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt) :] = torch.tensor(prompt)
        mask[row, length - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


def _uniforms(seeds: Sequence[int], n: int, device: torch.device) -> Tensor:
    """[B, n], one row per seed. In float64, where the device has it: neighbours in the batch move the last digits of a
    probability, which must hardly ever decide."""
    generator = torch.Generator("cpu")
    rows = [torch.rand(n, dtype=torch.float64, generator=generator.manual_seed(seed)) for seed in seeds]
    return torch.stack(rows).to(device, torch.float32 if device.type == "mps" else torch.float64)


@contextmanager
def _inference(lm: Any) -> Iterator[None]:
    """Within, there is no dropout, and activations are not checkpointed, with which there would be no cache."""
    training = lm.training
    lm.eval()
    try:
        yield
    finally:
        lm.train(training)
