"""From a config's `method` to its recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffdpo.config import DpoConfig, ImageConfig, KtoConfig, MapoConfig, SftConfig
from diffdpo.data.latents import LatentCache
from diffdpo.models.protocol import ImageModel, Predict
from diffdpo.training.image.dpo import DiffusionDpo
from diffdpo.training.image.kto import DiffusionKto
from diffdpo.training.image.mapo import DiffusionMapo
from diffdpo.training.image.pairs import PairRecipe
from diffdpo.training.image.sft import DiffusionSft


def make_recipe(
    config: ImageConfig,
    model: ImageModel,
    cache: LatentCache,
    train_rows: Sequence[int],
    held_out_rows: Sequence[int],
    device: torch.device,
    reference: Predict | None = None,
    weights: Tensor | None = None,
) -> PairRecipe:
    """The recipe of `config.method`.

    Args:
        reference: None is the model's own; methods without a reference make and hold none.
        weights: of every train row's loss; None weighs all alike.
    """
    shared: dict[str, Any] = {
        "seed": config.seed,
        "caption_dropout": config.data.caption_dropout,
        "timestep_power": config.training.timestep_power,
        "stratified": config.training.timesteps == "stratified",
        "antithetic": config.training.noise == "antithetic",
        "prefetch": config.training.prefetch,
        "weights": weights,
        "device": device,
    }
    data = (model, cache, train_rows, held_out_rows)
    match config:
        case DpoConfig():
            return DiffusionDpo(*data, loss=config.loss, reference=reference, **shared)
        case KtoConfig():
            return DiffusionKto(*data, loss=config.loss, reference=reference, **shared)
        case MapoConfig():
            return DiffusionMapo(*data, loss=config.loss, **shared)
        case SftConfig():
            return DiffusionSft(*data, loss=config.loss, **shared)
    raise ValueError(f"no recipe for {type(config).__name__}")
