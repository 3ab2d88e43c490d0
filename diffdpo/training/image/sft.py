"""`method: sft`: the denoising loss on the winners alone, the baseline of Wallace et al. 2023, without a reference."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from diffdpo.config import SftLossConfig
from diffdpo.losses import PreferenceOutput, denoising_error
from diffdpo.training.image.pairs import Examples, PairRecipe


class DiffusionSft(PairRecipe):
    """Trains on winners; losers are looked at on held-out pairs only, where the lower error counts as the reward.

    A tie has no winner: the config refuses `ties: half`.
    """

    def __init__(self, *args: Any, loss: SftLossConfig, **keywords: Any) -> None:
        super().__init__(*args, **keywords)

    def judge(self, *errors: Tensor) -> PreferenceOutput:
        error_w, error_l = errors
        return PreferenceOutput(error_w, -error_w.detach(), -error_l.detach())

    def loss(self, network: nn.Module, examples: Examples) -> tuple[Tensor, dict[str, Tensor]]:
        x_t, timesteps, conditioning, target = self.noised(examples)[1].winners()
        errors = denoising_error(self.model.predict(network, x_t, timesteps, conditioning), target)
        loss = self._mean(errors, examples)
        return loss, {"loss": loss, "error/chosen": errors.mean()}
