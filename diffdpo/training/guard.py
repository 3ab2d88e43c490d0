"""Against steps that are not finite: they are not taken, they are counted, and a row of them ends the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor

from diffdpo.errors import UserError
from diffdpo.training.sharding import local

SKIPPED = "skipped"
"""Among a step's figures: 1 where it was not taken. In metrics.jsonl: how many were not, since the run began."""

LONGEST_ROW = 3
LONGEST_ROW_FP16 = 20
"""fp16 scales the loss by 2^16 at first and finds its scale by halving it at every step that overflows."""


@dataclass
class Skips:
    """Counts the steps that were not taken.

    Args:
        longest_row: as many one after the other end the run.
    """

    longest_row: int
    total: int = 0
    in_a_row: int = 0

    def count(self, last: int, skipped: Sequence[bool]) -> None:
        """Take in the steps up to `last` (1-based).

        Raises:
            UserError: there were too many one after the other.
        """
        for step, one in enumerate(skipped, last - len(skipped) + 1):
            self.total += one
            self.in_a_row = self.in_a_row + 1 if one else 0
            if self.in_a_row >= self.longest_row:
                raise UserError(
                    f"stopped at step {step}: loss or gradient was not finite in {self.in_a_row} steps one after the "
                    "other; lower training.learning_rate or loss.beta, with another output; earlier checkpoints are "
                    "kept"
                )


def spoil_gradient(accelerator: Accelerator, loss: Tensor, parameters: Sequence[Tensor]) -> None:
    """Make the gradient NaN in every process where the loss of any is not finite; else leave it as it is.

    From here on the gradient's norm alone tells whether a step is fit, and the scaler of fp16 sees it as well: there
    are losses of NaN whose gradient is finite.
    """
    loss = loss.detach().float()
    if accelerator.num_processes > 1:
        loss = accelerator.reduce(loss, reduction="sum")
    gradient = local(next(parameter.grad for parameter in parameters if parameter.grad is not None))
    gradient.add_((loss * 0).to(gradient.device))


def not_finite(norm: Tensor) -> Tensor:
    """1.0 where a gradient's norm is not finite, else 0.0. On the device."""
    return (~torch.isfinite(norm.float())).float()


def step_unless(bad: Tensor, optimizer: AcceleratedOptimizer) -> None:
    """An optimiser step, unless `bad` is 1. Nothing is fetched from the device where the optimiser can look there."""
    inner = optimizer.optimizer
    if optimizer.scaler is None and getattr(inner, "_step_supports_amp_scaling", False):
        inner.found_inf = bad  # the fused kernels look at it
        optimizer.step()
        del inner.found_inf
    elif optimizer.scaler is not None or not bool(bad):  # a scaler leaves such steps out by itself
        optimizer.step()


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Of parted tensors: whether this process's parts are."""
    return bool(torch.stack([local(tensor).isfinite().all() for tensor in tensors]).all())


def refuse_broken(tensors: Sequence[Tensor], step: int, accelerator: Accelerator) -> None:
    """Raise UserError, in every process, if weights are not finite in any: they are written nowhere."""
    broken = torch.tensor(float(not all_finite(tensors)), device=accelerator.device)
    if accelerator.reduce(broken, reduction="sum"):
        raise UserError(
            f"stopped at step {step}: the weights are not finite, so nothing is written of them; "
            "lower training.learning_rate, with another output; earlier checkpoints are kept"
        )
