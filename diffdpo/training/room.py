"""When a device's memory is full: a step is done in smaller micro-batches, or the user is told what to try."""

from __future__ import annotations

from collections.abc import Callable

import torch

from diffdpo.config import TrainingConfig
from diffdpo.errors import UserError
from diffdpo.training.shares import Shares

_FULL = ("can't allocate memory", "ALLOC_FAILED")
"""In what a CPU and cuBLAS say, whose errors have no type of their own."""

Refit = Callable[[Shares], None]
"""Told how steps are shared out from now on."""


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _FULL)


def smaller(error: RuntimeError, shares: Shares, config: TrainingConfig, refit: Refit | None) -> Shares:
    """How to share out a step whose gradient ended in `error`.

    Only where one process is alone: others would wait for it in a step that it has left.

    Args:
        refit: told of it; None where the shares are the user's.

    Raises:
        UserError: memory is full, and there is no other way that is ours to go.
    """
    less = shares.smaller()
    if refit is None or less is None or shares.count > 1 or not is_full(error):
        refuse_full(error, shares, config)
        raise error
    refit(less)
    return less


def refuse_full(error: RuntimeError, shares: Shares, config: TrainingConfig) -> None:
    """Raise UserError, which says what to try, if `error` says that there is no memory left."""
    if not is_full(error):
        return
    anew = ["train fewer weights"]
    if config.optimizer == "adamw":
        anew.insert(0, "training.optimizer=adafactor")
    if not config.gradient_checkpointing:
        anew.insert(0, "training.gradient_checkpointing=true")
    tries, less = f"in a new folder {' or '.join(anew)}", shares.smaller()
    if less is not None:
        follows = ", unless pairs_per_step is set" if hasattr(config, "pairs_per_step") else ""
        tries = f"training.batch_size={less.size} (training.accumulation={less.accumulation}{follows}), or {tries}"
    raise UserError(f"training.batch_size: the memory is full with {shares.size} at a time; try {tries}") from None
