"""From a config's data section to examples: read, tokenised, fitted, divided into those to train on and to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator, PartialState

from diffdpo.config import PpoConfig, TextConfig
from diffdpo.data.text.examples import Count, Example, Limits, examples
from diffdpo.data.text.moderation import FLAGGED, harmless
from diffdpo.data.text.purposes import Purpose
from diffdpo.data.text.readers import TextSource
from diffdpo.data.text.records import Record
from diffdpo.data.text.tokens import Encoder
from diffdpo.devices import pick_device
from diffdpo.errors import UserError
from diffdpo.progress import say
from diffdpo.training.processes import of_the_main_process
from diffdpo.training.splits import held_out
from diffdpo.training.text.filtering import open_moderator

PURPOSES: dict[str, Purpose] = {
    "sft": "demonstrations",
    "dpo": "pairs",
    "kto": "verdicts",
    "reward": "rankings",
    "ppo": "prompts",
}

LONGEST = 2048
"""Tokens, where neither the config nor the model says."""


@dataclass(frozen=True)
class Prepared:
    """What a run learns from.

    Attributes:
        count: what was left out or cut.
    """

    encoder: Encoder
    limits: Limits
    examples: list[Example]
    train_rows: list[int]
    held_out_rows: list[int]
    count: Count


def prepare(
    config: TextConfig,
    source: TextSource,
    tokenizer: Any,
    context: int | None,
    accelerator: Accelerator | None = None,
) -> Prepared:
    """Tokenise and divide.

    Args:
        context: tokens that the model was made for.
        accelerator: of a run, whose processes share what `data.filter` found.

    Raises:
        UserError: nothing is left to train on, the tokenizer cannot be used, or a length is beyond the model's.
    """
    encoder = Encoder.of(tokenizer, config.model.path, config.data.end_token)
    if config.data.end_token is not None:
        tokenizer.eos_token = config.data.end_token  # what is exported must end its answers with it too
    limits = limits_of(config, context)
    records, n_flagged = _allowed(config, source, accelerator)
    found, count = examples(records, PURPOSES[config.method], encoder, limits)
    if config.data.filter is not None:
        count.records += n_flagged
        count.dropped[FLAGGED] += n_flagged
    held = held_out([example.prompt for example in found], config.data.held_out_share, config.seed)
    train_rows = [row for row, is_held in enumerate(held) if not is_held]
    if not train_rows:
        raise UserError(f"{config.data.path}: nothing to train on: {count.told()}, {sum(held)} held out")
    return Prepared(encoder, limits, found, train_rows, [row for row, is_held in enumerate(held) if is_held], count)


def say_lost(path: str, count: Count) -> None:
    """Tell, once for all processes, what of a file was left out or cut; nothing where nothing was."""
    if (count.dropped or count.cut) and PartialState().is_main_process:
        say(f"{path}: {count.told()}")


def _allowed(config: TextConfig, source: TextSource, accelerator: Accelerator | None) -> tuple[Sequence[Record], int]:
    """The records that `data.filter` lets through, and how many it does not."""
    path = config.data.filter
    if path is None:
        return source.records, 0
    if accelerator is None:
        return harmless(source.records, open_moderator(path, pick_device()))
    device = accelerator.device
    return of_the_main_process(accelerator, lambda: harmless(source.records, open_moderator(path, device)))


def limits_of(config: TextConfig, context: int | None) -> Limits:
    """How long sequences may be.

    Raises:
        UserError: longer than the model was made for, or no room for an answer.
    """
    data = config.data
    longest = data.max_length or context or LONGEST
    if context is not None and longest > context:
        raise UserError(f"data.max_length: {longest} is more than the {context} tokens that {config.model.path} takes")
    if data.max_prompt_length is not None and data.max_prompt_length >= longest:
        raise UserError(f"data.max_prompt_length: must be below the {longest} tokens that prompt and answer may have")
    longest_prompt = data.max_prompt_length
    if isinstance(config, PpoConfig):
        room = longest - config.rollout.max_tokens
        if room < (longest_prompt or 1):
            raise UserError(
                f"rollout.max_tokens: answers of {config.rollout.max_tokens} tokens leave no room for a prompt of "
                f"{longest_prompt or 1} within {longest}"
            )
        longest_prompt = longest_prompt or room
    return Limits(longest, longest_prompt, data.truncation)


def text_limits(config: PpoConfig, context: int | None) -> Limits:
    """How long the plain texts of PPO-ptx may be."""
    longest = config.ptx.max_length or context or LONGEST
    if context is not None and longest > context:
        raise UserError(f"ptx.max_length: {longest} is more than the {context} tokens that {config.model.path} takes")
    return Limits(longest)
