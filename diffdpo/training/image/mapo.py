"""`method: mapo`: MaPO (Hong et al. 2024, arXiv 2406.06424) over cached latents, without a reference."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from diffdpo.config import MapoLossConfig
from diffdpo.losses import PreferenceOutput, mapo_loss
from diffdpo.training.image.pairs import PairRecipe


class DiffusionMapo(PairRecipe):
    """The recipe that the training loop runs. Of a tie both images are learnt to be denoised, with half the weight
    each, and their scores are drawn together."""

    def __init__(self, *args: Any, loss: MapoLossConfig, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.loss_config = loss

    def judge(self, *errors: Tensor) -> PreferenceOutput:
        config, n_timesteps = self.loss_config, self.model.objective.n_timesteps
        return mapo_loss(*errors, beta=config.beta, snr=config.snr, n_timesteps=n_timesteps)
