"""The optimiser, learning rate, weight decay by parameter, and the running average of the weights."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffdpo.config import TrainingConfig
from diffdpo.errors import UserError
from diffdpo.training.processes import is_sharded
from diffdpo.training.sharding import local


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The rate of a step (0-based): linear warm-up, then constant or falling to zero just after the last."""
    peak, warmup = config.learning_rate, config.warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, config.steps - warmup)
    if config.schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (1 - progress) if config.schedule == "linear" else peak


def parameter_groups(parameters: Sequence[Tensor], undecayed: Sequence[Tensor], decay: float) -> list[dict[str, Any]]:
    """Groups for an optimiser: those that decay and, where there are any, those that do not."""
    without = set(map(id, undecayed))
    groups = [
        {"params": [p for p in parameters if id(p) not in without], "weight_decay": decay},
        {"params": [p for p in parameters if id(p) in without], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def check_optimizer(name: str, device: torch.device) -> None:
    """Raise UserError if the optimiser cannot be had on this device, or on weights that are parted."""
    if name != "adamw" and is_sharded():
        raise UserError(f"training.optimizer: {name} cannot be used with parted weights (FSDP); use adamw")
    if name != "adamw8bit":
        return
    if device.type != "cuda":
        raise UserError("training.optimizer: adamw8bit needs a GPU, and there is none; use adamw or adafactor")
    try:
        importlib.import_module("bitsandbytes")
    except ImportError:
        raise UserError(
            "training.optimizer: adamw8bit needs the package bitsandbytes; install it, or use adafactor"
        ) from None


def make_optimizer(config: TrainingConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser of `training.optimizer` over some groups of parameters."""
    match config.optimizer:
        case "adafactor":
            return torch.optim.Adafactor(groups, lr=config.learning_rate)
        case "adamw8bit":
            made: torch.optim.Optimizer = importlib.import_module("bitsandbytes").optim.AdamW8bit(
                groups, lr=config.learning_rate, eps=config.adam_eps
            )
            return made
    return torch.optim.AdamW(groups, lr=config.learning_rate, eps=config.adam_eps, fused=True)


class WeightAverage:
    """Exponential moving average in float32, with a short memory in the first steps: min(decay, (1+s)/(10+s)).

    `weights` are parted as the parameters are.
    """

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        self.decay = decay
        self.weights = [p.detach().to(torch.float32, copy=True) for p in parameters]

    def update(self, parameters: Sequence[Tensor], step: int) -> None:
        """Take in the weights after `step` (0-based)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_([local(w) for w in self.weights], [local(p).float() for p in parameters], 1 - decay)
