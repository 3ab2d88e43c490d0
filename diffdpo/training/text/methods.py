"""From a text config's `method` to its model and its recipe."""

from __future__ import annotations

from typing import Any

import torch

from diffdpo.config import RewardConfig, TextConfig, TextDpoConfig, TextKtoConfig, TextSftConfig, TextSftLossConfig
from diffdpo.models.text.causal_lm import CausalLM
from diffdpo.models.text.reward_model import RewardModel
from diffdpo.training.text.choice import HeldOutAnswers
from diffdpo.training.text.dpo import TextDpo
from diffdpo.training.text.kto import TextKto
from diffdpo.training.text.prepare import Prepared
from diffdpo.training.text.recipe import TextRecipe
from diffdpo.training.text.reference import LiveReference, Reference
from diffdpo.training.text.reward import RewardTraining
from diffdpo.training.text.sft import TextSft

TextModel = CausalLM | RewardModel


def model_options(config: TextConfig, device: torch.device) -> dict[str, Any]:
    """How a model is opened. Frozen weights next to a LoRA take the half precision that is trained in, on a GPU."""
    halves = {"bf16": torch.bfloat16, "fp16": torch.float16}
    half = halves.get(config.training.precision, torch.float32)
    return {
        "lora_rank": config.lora.rank,
        "lora_alpha": config.lora.effective_alpha,
        "device": device,
        "frozen_dtype": half if device.type == "cuda" else torch.float32,
        "seed": config.seed,
    }


def open_model(config: TextConfig, device: torch.device) -> TextModel:
    """The model to train."""
    shared = model_options(config, device)
    if isinstance(config, RewardConfig):
        return RewardModel(config.model.path, **shared)
    dropout = config.loss.dropout if isinstance(config.loss, TextSftLossConfig) else 0.0
    return CausalLM(config.model.path, dropout=dropout, **shared)


def make_recipe(
    config: TextConfig,
    model: TextModel,
    prepared: Prepared,
    device: torch.device,
    answers: HeldOutAnswers | None = None,
) -> TextRecipe:
    """The recipe of `config.method`. A cached reference is put in later, see `runner`.

    Args:
        answers: of `sft`, what to choose a checkpoint by.
    """
    data = (prepared.examples, prepared.train_rows, prepared.held_out_rows)
    shared: dict[str, Any] = {"filler": prepared.encoder.pad, "device": device, "packed": config.data.packing}
    if config.data.packing:
        model.refuse_unpackable()
    if isinstance(model, RewardModel):
        return RewardTraining(model, *data, **shared)
    data_of_network = (model.network, *data)
    match config:
        case TextSftConfig():
            own: dict[str, Any] = {"dropout": config.loss.dropout > 0, "seed": config.seed, "answers": answers}
            return TextSft(*data_of_network, **own, **shared)
        case TextDpoConfig():
            return TextDpo(*data_of_network, loss=config.loss, reference=_reference(config, model), **shared)
        case TextKtoConfig():
            limit, reference = prepared.limits.max_length, _reference(config, model)
            return TextKto(*data_of_network, loss=config.loss, max_length=limit, reference=reference, **shared)
    raise ValueError(f"no recipe for {type(config).__name__}")


def _reference(config: TextConfig, model: CausalLM) -> Reference | None:
    return LiveReference(model.reference()) if config.model.reference in ("adapter", "copy") else None
