"""Learning rate, and the running average of the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffdpo.config import TrainingConfig


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The rate of a step (0-based): linear warm-up, then constant or falling to zero just after the last."""
    peak, warmup = config.learning_rate, config.warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, config.steps - warmup)
    if config.schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * progress))
    return peak * (1 - progress) if config.schedule == "linear" else peak


class WeightAverage:
    """Exponential moving average in float32, with a short memory in the first steps: min(decay, (1+s)/(10+s))."""

    def __init__(self, parameters: Sequence[Tensor], decay: float) -> None:
        self.decay = decay
        self.weights = [p.detach().to(torch.float32, copy=True) for p in parameters]

    def update(self, parameters: Sequence[Tensor], step: int) -> None:
        """Take in the weights after `step` (0-based)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.weights, [p.detach().float() for p in parameters], 1 - decay)
