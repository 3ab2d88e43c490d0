"""Sections that recipes of several kinds share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diffdpo.config.strict import in_range
from diffdpo.errors import UserError


@dataclass(frozen=True)
class TrainingConfig:
    steps: int
    """Optimiser steps."""
    batch_size: int | Literal["auto"]
    """Pairs per process and micro-step. `auto`, for image models: as many as fit into the memory."""
    learning_rate: float
    optimizer: Literal["adamw", "adamw8bit", "adafactor"] = "adamw"
    """`adamw8bit` keeps its moments in 8 bits (a GPU and the package bitsandbytes), `adafactor` one number per row
    and column; its learning rate is a share of each weight tensor's own size."""
    accumulation: int = 1
    """Micro-steps per optimiser step."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.01
    max_grad_norm: float | None = 1.0
    """A longer gradient is cut down to this length; 0 or None leaves all as they are."""
    ema: float | None = None
    """Decay of the weights' running average, which is then what is evaluated and exported; None for none."""
    timestep_power: float = 1.0
    """A timestep t is drawn in proportion to t^(power - 1): 1 is uniform, as in the paper; above 1 the noisy steps,
    which settle a picture's composition, come more often."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    gradient_checkpointing: Literal[True, False, "auto"] = False
    """Less memory for more time: activations are made again in the backward pass. `auto`, for image models, does so
    where the estimate of `--dry-run` says that they would not fit."""
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    log_every: int = 10
    evaluate_every: int = 100
    adam_eps = 1e-8  # of AdamW, where a method has no key for it

    def __post_init__(self) -> None:
        if self.batch_size != "auto":
            in_range("training.batch_size", self.batch_size, 1, float("inf"))
        for name in (
            "steps",
            "accumulation",
            "checkpoint_every",
            "keep_checkpoints",
            "log_every",
            "evaluate_every",
        ):
            in_range(f"training.{name}", getattr(self, name), 1, float("inf"))
        in_range("training.learning_rate", self.learning_rate, 0, 1)
        in_range("training.weight_decay", self.weight_decay, 0, float("inf"))
        if self.max_grad_norm is not None:
            in_range("training.max_grad_norm", self.max_grad_norm, 0, float("inf"))
        in_range("training.warmup_steps", self.warmup_steps, 0, float("inf"))
        in_range("training.timestep_power", self.timestep_power, 0.1, 10)
        if self.ema is not None:
            in_range("training.ema", self.ema, 0, 1)

    @property
    def micro_batch(self) -> int:
        """`batch_size`, once it is a number."""
        assert isinstance(self.batch_size, int), "what a config leaves to the memory is settled before it is used"
        return self.batch_size

    def refuse_auto(self, what: str) -> None:
        """Raise UserError if something is to be estimated that is only estimated for image models."""
        if self.batch_size == "auto":
            raise UserError(f"training.batch_size: auto cannot be had for {what}; say a number")
        if self.gradient_checkpointing == "auto":
            raise UserError(f"training.gradient_checkpointing: auto cannot be had for {what}; say true or false")


@dataclass(frozen=True)
class LoraConfig:
    rank: int = 0
    """0 is full fine-tuning."""
    alpha: float = 0.0
    """The adapter is scaled by alpha / rank; 0 stands for alpha = rank."""

    def __post_init__(self) -> None:
        in_range("lora.rank", self.rank, 0, float("inf"))
        in_range("lora.alpha", self.alpha, 0, float("inf"))

    @property
    def effective_alpha(self) -> float:
        return self.alpha or float(self.rank)
