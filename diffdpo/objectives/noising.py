"""How a clean latent is noised and what the network must answer. The one place that knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Objective(Protocol):
    """Noising and target of a family. Latents and noise are [B, c, h, w], timesteps [B]."""

    @property
    def n_timesteps(self) -> int: ...

    def noised(self, x_0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor: ...

    def target(self, x_0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Diffusion:
    """DDPM's forward process: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise (Ho et al. 2020, eq. 4).

    Args:
        alphas_cumprod: abar, [T] float.
        prediction_type: `epsilon` or `v_prediction` (Salimans and Ho 2022), as diffusers' schedulers spell it.
    """

    alphas_cumprod: Tensor
    prediction_type: str = "epsilon"

    def __post_init__(self) -> None:
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction type {self.prediction_type!r} is neither epsilon nor v_prediction")

    @property
    def n_timesteps(self) -> int:
        return len(self.alphas_cumprod)

    def noised(self, x_0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        signal, noise_level = self._levels(x_0, timesteps)
        return signal * x_0 + noise_level * noise

    def target(self, x_0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        if self.prediction_type == "epsilon":
            return noise
        signal, noise_level = self._levels(x_0, timesteps)
        return signal * noise - noise_level * x_0

    def _levels(self, x_0: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        abar = self.alphas_cumprod.to(x_0.device)[timesteps.to(x_0.device)].to(x_0.dtype)
        abar = abar.reshape(-1, *[1] * (x_0.dim() - 1))
        return abar.sqrt(), (1 - abar).sqrt()


@dataclass(frozen=True)
class FlowMatching:
    """The straight path of rectified flow: x_t = (1 - s) x_0 + s noise, target noise - x_0, s = t / T."""

    n_timesteps: int = 1000

    def noised(self, x_0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        s = (timesteps.to(x_0.device) / self.n_timesteps).to(x_0.dtype).reshape(-1, *[1] * (x_0.dim() - 1))
        return torch.lerp(x_0, noise, s)

    def target(self, x_0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise - x_0
