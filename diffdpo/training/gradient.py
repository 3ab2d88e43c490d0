"""The gradient of an optimiser step, added up over micro-steps."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache
from torch import Tensor, nn

from diffdpo.config import TrainingConfig
from diffdpo.training.protocols import Recipe, Uneven
from diffdpo.training.room import Refit, smaller
from diffdpo.training.shares import Shares, dealt

Examples = Sequence[tuple[int, int]]
"""(index, epoch) of each."""


class StepGradient:
    """Adds a recipe's gradient up in the parameters of its network; every example of a step weighs the same.

    Args:
        network: the recipe's, wrapped for several processes.
        shares: how a step is shared out. Where it may be, it becomes finer when memory is full.
        refit: see `train`.
    """

    def __init__(
        self,
        recipe: Recipe,
        network: nn.Module,
        config: TrainingConfig,
        accelerator: Accelerator,
        refit: Refit | None = None,
    ) -> None:
        self.recipe, self.network, self.config, self.accelerator = recipe, network, config, accelerator
        self.shares = Shares(
            config.micro_batch, config.accumulation, accelerator.num_processes, accelerator.process_index
        )
        self.refit = refit

    def add_up(self, places: Examples) -> tuple[Tensor, dict[str, Tensor]]:
        """The gradient of a whole step, whose `places` are those of all processes.

        If memory is full on the way it is begun anew, which changes nothing: no weight has moved. Not in the first step
        alone: the optimiser has its state from the end of that one on.

        Returns:
            The sum of the losses of this process's micro-steps, and the mean of each of their figures.

        Raises:
            UserError: memory is full, and the shares cannot be finer.
        """
        try:
            return self._micro_steps(places)
        except RuntimeError as error:
            self.shares = smaller(error, self.shares, self.config, self.refit)
        self.network.zero_grad(set_to_none=True)
        clear_device_cache(garbage_collection=True)  # not within `except`, which holds on to the activations
        return self.add_up(places)

    def mine(self, places: Examples) -> list[Examples]:
        """This process's share of a step, by micro-steps."""
        if isinstance(self.recipe, Uneven):
            # The longest first: what does not fit shows at once, and later ones find memory of their size.
            places = sorted(places, key=self.recipe.length, reverse=True)
        return dealt(places, self.shares.size, self.shares.index, self.shares.count)

    def _micro_steps(self, places: Examples) -> tuple[Tensor, dict[str, Tensor]]:
        last = self.shares.accumulation - 1
        totals: dict[str, Tensor] = {}
        total_loss = torch.zeros((), device=self.accelerator.device)
        for micro, examples in enumerate(self.mine(places)):
            with nullcontext() if micro == last else self.accelerator.no_sync(self.network):
                loss, figures = self.add(examples)
            total_loss = total_loss + loss
            for name, value in figures.items():
                totals[name] = totals.get(name, 0) + value.detach() / self.shares.accumulation
        return total_loss, totals

    def add(self, examples: Examples) -> tuple[Tensor, dict[str, Tensor]]:
        """Add the gradient of a micro-step to what is there; its loss, detached, and figures."""
        with self.accelerator.autocast():
            loss, figures = self.recipe.loss(self.network, examples)
        self.accelerator.backward(loss / self.shares.accumulation)
        return loss.detach(), figures
