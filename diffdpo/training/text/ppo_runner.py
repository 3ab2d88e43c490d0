"""From a PPO config to a finished run folder: prompts, texts, policy, value model, reward, the loop, the export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from diffdpo.config import PpoConfig
from diffdpo.data.text.examples import examples
from diffdpo.data.text.readers import TextSource, open_text
from diffdpo.data.text.tokens import Encoder, Tokens
from diffdpo.errors import UserError
from diffdpo.models.protocol import trainable
from diffdpo.models.text.actor_critic import ActorCritic
from diffdpo.models.text.causal_lm import CausalLM
from diffdpo.models.text.reward_model import HEAD, RewardModel
from diffdpo.training.folder import finished, lasting, run_name, work_in, write_whole
from diffdpo.training.loop import Outcome, train
from diffdpo.training.optimization import check_optimizer
from diffdpo.training.processes import is_sharded, new_accelerator
from diffdpo.training.text.methods import model_options, open_model
from diffdpo.training.text.ppo import Ppo
from diffdpo.training.text.prepare import Prepared, prepare, say_lost, text_limits
from diffdpo.training.text.scoring import OpenReward
from diffdpo.training.text.settings import text_settings


def run_ppo(config: PpoConfig, open_reward: OpenReward) -> dict[str, Any]:
    """Train, or go on, or find it done. Returns what the manifest records as results.

    Raises:
        UserError: unfit data, model, reward or output folder, or a launcher that parts the weights.
    """
    if is_sharded():
        raise UserError("FSDP parts the weights of image models only; launch text recipes with DDP")
    source = open_text(config.data.path, config.data.split)
    settings = text_settings(config, source)
    accelerator = new_accelerator(config.training.precision)
    done = finished(Path(config.output), settings)
    if done is not None:
        return done
    check_optimizer(config.training.optimizer, accelerator.device)
    # All that the user gave first: a folder is only taken when nothing of it stands in the way.
    parts = open_ppo(config, source, open_reward, accelerator)
    say_lost(config.data.path, parts.prepared.count)

    def tune(folder: Path) -> Outcome:
        run = run_name(settings)
        return train(parts.recipe, config.training, seed=config.seed, run=run, folder=folder, accelerator=accelerator)

    def export(folder: Path, outcome: Outcome) -> dict[str, Any]:
        exported = "lora" if config.lora.rank else "model"
        of_policy = outcome.weights[: len(trainable(parts.policy.network))]
        write_whole(folder / exported, lambda place: parts.policy.export(place, of_policy))
        return {**parts.told(), "exported": exported, "figures": lasting(outcome)}

    return work_in(config, settings, accelerator, train=tune, export=export)


@dataclass(frozen=True)
class PpoParts:
    """What a run is put together from."""

    policy: CausalLM
    prepared: Prepared
    texts: list[Tokens]
    recipe: Ppo

    def told(self) -> dict[str, Any]:
        """What the manifest says of the data."""
        return {
            "examples": len(self.prepared.train_rows),
            "held_out_examples": len(self.prepared.held_out_rows),
            "left_out": dict(sorted(self.prepared.count.dropped.items())),
            "cut": self.prepared.count.cut,
            "texts": len(self.texts),
        }


def open_ppo(config: PpoConfig, source: TextSource, open_reward: OpenReward, accelerator: Accelerator) -> PpoParts:
    """Prompts, texts, policy, reference, value model and reward.

    Raises:
        UserError: one of them cannot be used.
    """
    device = accelerator.device
    policy = open_model(config, device)
    assert isinstance(policy, CausalLM), "ppo trains a language model"
    prepared = prepare(config, source, policy.tokenizer, policy.context, accelerator)
    texts = plain_texts(config, prepared.encoder, policy.context)
    value = open_value(config, policy, device)
    reference = policy.reference()
    if config.training.gradient_checkpointing:
        policy.enable_gradient_checkpointing()
        value.enable_gradient_checkpointing()
    recipe = Ppo(
        ActorCritic(policy.network, value.network),
        *(prepared.examples, prepared.train_rows, prepared.held_out_rows),
        config=config,
        encoder=prepared.encoder,
        reward=open_reward(config.reward.source, device),
        reference=reference,
        texts=texts,
        device=device,
    )
    return PpoParts(policy, prepared, texts, recipe)


def open_value(config: PpoConfig, policy: CausalLM, device: torch.device) -> RewardModel:
    """The value model.

    Raises:
        UserError: none is there, or it knows other tokens than the policy.
    """
    path = value_start(config)
    value = RewardModel(path, **model_options(config, device))
    if value.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise UserError(
            f"model.value: {path} has another tokenizer than {config.model.path}, whose states it must judge; name a "
            "model of the same family"
        )
    return value


def value_start(config: PpoConfig) -> str:
    """`model.value`, or the reward model, or where the reward is a program the policy's own start."""
    source = config.reward.source
    return config.model.value or (source if (Path(source) / HEAD).is_file() else config.model.path)


def plain_texts(config: PpoConfig, encoder: Encoder, context: int | None) -> list[Tokens]:
    """The texts of PPO-ptx, tokenised; none without `ptx.path`.

    Raises:
        UserError: no text there.
    """
    if config.ptx.path is None:
        return []
    limits = text_limits(config, context)
    found, count = examples(open_text(config.ptx.path).records, "texts", encoder, limits)
    if not found:
        raise UserError(f"ptx.path: {config.ptx.path}: no text left ({count.told()})")
    say_lost(config.ptx.path, count)
    return [example.answers[0] for example in found]
