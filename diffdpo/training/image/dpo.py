"""`method: dpo` on images: Diffusion-DPO (Wallace et al. 2023) over cached latents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from diffdpo.config import LossConfig
from diffdpo.losses import PreferenceOutput, diffusion_dpo_loss, winner_safeguard
from diffdpo.training.image.pairs import Examples, figures_of
from diffdpo.training.image.referenced import ReferencedRecipe


class DiffusionDpo(ReferencedRecipe):
    """The recipe that the training loop runs. Ties among the train rows count half in each order."""

    def __init__(self, *args: Any, loss: LossConfig, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.loss_config = loss

    def judge(self, *errors: Tensor) -> PreferenceOutput:
        config = self.loss_config
        return diffusion_dpo_loss(*errors, beta=config.beta, kind=config.kind, label_smoothing=config.label_smoothing)

    def loss(self, network: nn.Module, examples: Examples) -> tuple[Tensor, dict[str, Tensor]]:
        batch, noised = self.noised(examples)
        ref_w, ref_l = self._reference_errors(noised, examples)
        prediction = self.model.predict(network, *noised.inputs)
        error_w, error_l = noised.errors(prediction)
        sides = tuple(zip(prediction.chunk(2), noised.target.chunk(2), strict=True))
        passed = self._passed(*sides)
        output = self.judge(error_w, _guarded(error_l, passed), ref_w, ref_l)
        losses = output.loss
        if bool(batch.ties.any()):
            ties, passed_w = batch.ties.to(self.device, non_blocking=True), self._passed(*reversed(sides))
            mirrored = self.judge(error_l, _guarded(error_w, passed_w), ref_l, ref_w).loss
            losses = torch.where(ties, 0.5 * (losses + mirrored), losses)
            passed = torch.where(ties, 0.5 * (passed + passed_w), passed)
        figures = figures_of(output, error_w, error_l, ref_w, ref_l)
        loss = self._mean(losses, examples)
        return loss, {"loss": loss, **figures, "safeguard": passed.mean()}

    def _passed(self, winner: tuple[Tensor, Tensor], loser: tuple[Tensor, Tensor]) -> Tensor:
        """The share of the loser's gradient that passes, [B]; from prediction and target of both."""
        mu = self.loss_config.winner_safeguard
        if mu is None:
            return torch.ones(len(winner[0]), device=winner[0].device)
        return winner_safeguard(winner[0], loser[0], winner[1], loser[1], mu)


def _guarded(error: Tensor, passed: Tensor) -> Tensor:
    """The error to the bit (beta would magnify a rounding); only this share of its gradient goes on."""
    return error.detach() + passed * (error - error.detach())
