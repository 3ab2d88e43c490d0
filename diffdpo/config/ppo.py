"""Sections of the settings of `method: ppo`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from diffdpo.config.shared import TrainingConfig
from diffdpo.config.strict import in_range
from diffdpo.errors import UserError


@dataclass(frozen=True)
class PpoTrainingConfig(TrainingConfig):
    """`batch_size` counts answers."""

    adam_eps: float = 1e-5
    """Of AdamW, where that is the optimiser; as published for PPO."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range("training.adam_eps", self.adam_eps, 0, 1)


@dataclass(frozen=True)
class RewardSourceConfig:
    source: str
    """A reward model's folder, or a program: `words` (the text world's exact reward), a name of the entry-point group
    `diffdpo.rewards`, or `package.module:function` of an installed package."""
    no_end: float = -1.0
    """The score of an answer that did not end within `rollout.max_tokens`, in place of its own."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.no_end):
            raise UserError(f"reward.no_end: a finite number is wanted, not {self.no_end}")


@dataclass(frozen=True)
class RolloutConfig:
    """A rollout is `minibatches` times the answers of an optimiser step, and lasts for `epochs * minibatches` steps."""

    max_tokens: int = 128
    """Of an answer, its end token with them."""
    temperature: float = 1.0
    """Divides the logits: in drawing answers, in the reference and in the update."""
    minibatches: int = 1
    """Optimiser steps of one pass over a rollout."""
    epochs: int = 4
    """Passes over a rollout."""
    batch_size: int = 64
    """Answers drawn and scored at a time, per process."""

    def __post_init__(self) -> None:
        for name in ("max_tokens", "minibatches", "epochs", "batch_size"):
            in_range(f"rollout.{name}", getattr(self, name), 1, float("inf"))
        in_range("rollout.temperature", self.temperature, 0.01, 100)

    @property
    def steps(self) -> int:
        """Optimiser steps that a rollout lasts for."""
        return self.epochs * self.minibatches


@dataclass(frozen=True)
class PpoLossConfig:
    kl_coef: float = 0.02
    """What a nat of KL(policy || reference) costs, in the unit of the reward; with a target, at first."""
    kl_target: float | None = None
    """Nats per answer that an adaptive `kl_coef` steers to; None leaves it fixed."""
    kl_horizon: int = 10_000
    """Answers over which an adaptive coefficient that is far off changes by about a fifth."""
    clip: float = 0.2
    """How far the ratio of new to old probability may move a token's loss."""
    value_clip: float = 0.2
    """How far a value may move from its old one, in the unit of the reward."""
    value_coef: float = 0.1
    gamma: float = 1.0
    """Discount per token."""
    lam: float = 0.95
    """GAE's lambda."""
    has_reference = True

    def __post_init__(self) -> None:
        for name in ("kl_coef", "clip", "value_clip", "value_coef"):
            in_range(f"loss.{name}", getattr(self, name), 0, float("inf"))
        for name in ("gamma", "lam"):
            in_range(f"loss.{name}", getattr(self, name), 0, 1)
        in_range("loss.kl_horizon", self.kl_horizon, 1, float("inf"))
        if self.kl_target is not None:
            if not self.kl_target > 0:
                raise UserError(f"loss.kl_target: must be positive, not {self.kl_target}")
            if not self.kl_coef > 0:
                raise UserError("loss.kl_coef: must be positive to be adapted to loss.kl_target")


@dataclass(frozen=True)
class PtxConfig:
    """PPO-ptx: beside every step's answers, the likelihood of plain text (Ouyang et al. 2022, eq. 2)."""

    path: str | None = None
    """Plain text (column `text`), as `data.path`; None is PPO without it."""
    coef: float = 27.8
    """Weight of its mean log-likelihood per token."""
    per_answer: int = 1
    """Texts beside every answer of a step."""
    max_length: int | None = None
    """Tokens of a text; longer ones are cut into windows. None is what the model was made for."""

    def __post_init__(self) -> None:
        in_range("ptx.coef", self.coef, 0, float("inf"))
        in_range("ptx.per_answer", self.per_answer, 1, float("inf"))
        if self.max_length is not None:
            in_range("ptx.max_length", self.max_length, 2, float("inf"))
