"""`diffdpo train` on text: from a config to its runner, with what only commands may put together."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffdpo.config import PpoConfig, TextConfig
    from diffdpo.data.text.tokens import Encoder


def train_text(config: TextConfig) -> dict[str, Any]:
    """Run it; what the manifest records as results.

    Raises:
        UserError: unfit data, model, reward or output folder.
    """
    from diffdpo.commands.rewards import open_reward
    from diffdpo.config import PpoConfig

    config = built_in(config)
    if isinstance(config, PpoConfig):
        from diffdpo.training.text.ppo_runner import run_ppo

        return run_ppo(config, open_reward)
    from diffdpo.training.text.runner import run_text

    return run_text(config, open_reward)


def plan_text(config: TextConfig) -> dict[str, Any]:
    """What training would do, after checking all that can be checked without opening a model."""
    from diffdpo.commands.rewards import check_reward
    from diffdpo.config import PpoConfig, TextSftConfig
    from diffdpo.data.text.readers import open_text
    from diffdpo.models.text.loading import load_context, load_tokenizer
    from diffdpo.runs import check_claim
    from diffdpo.training.text.choice import held_out_prompts
    from diffdpo.training.text.prepare import prepare
    from diffdpo.training.text.settings import text_settings

    config = built_in(config)
    source = open_text(config.data.path, config.data.split)
    prepared = prepare(config, source, load_tokenizer(config.model.path), load_context(config.model.path))
    further = _plan_ppo(config, prepared.encoder) if isinstance(config, PpoConfig) else {}
    if isinstance(config, TextSftConfig) and config.choose.by is not None:
        check_reward(config.choose.by)
        held_out_prompts(config.choose, source, prepared)
    check_claim(config.output, "train", lambda: text_settings(config, source))
    return {
        "examples": len(prepared.train_rows),
        "held_out_examples": len(prepared.held_out_rows),
        "records": prepared.count.told(),
        "longest": max(len(answer.ids) for example in prepared.examples for answer in example.answers),
        "memory_gb": _memory_gb(config, config.model.path, copy=config.model.reference == "copy"),
        **further,
    }


def built_in(config: TextConfig) -> TextConfig:
    """With the folder of the text world's model in place of its name."""
    from diffdpo.words.weights import resolve_model

    path = resolve_model(config.model.path)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, path=path))


def _plan_ppo(config: PpoConfig, encoder: Encoder) -> dict[str, Any]:
    """What PPO has beside other methods: a reward, a value model, plain texts."""
    from diffdpo.commands.rewards import check_reward
    from diffdpo.models.text.loading import load_context
    from diffdpo.training.text.ppo_runner import plain_texts, value_start

    check_reward(config.reward.source)
    texts = plain_texts(config, encoder, load_context(config.model.path))
    policy = _memory_gb(config, config.model.path, copy=config.model.reference == "copy")
    value = _memory_gb(config, value_start(config), copy=False)
    return {"texts": len(texts), "memory_gb": None if policy is None or value is None else policy + value}


def _memory_gb(config: TextConfig, path: str, *, copy: bool) -> float | None:
    from diffdpo.models.memory.weights import language_model_memory_gb

    return language_model_memory_gb(path, config.lora.rank, ema=config.training.ema is not None, copy=copy)
