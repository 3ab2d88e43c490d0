"""Tiny checkpoints of every family with a LoRA on them whose alpha is not its rank."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from adapted import ALPHA, RANK
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from family_samples import make

from diffdpo.models.pipeline_model import PipelineModel
from diffdpo.models.protocol import trainable
from diffdpo.models.registry import load_model


@pytest.fixture(scope="session")
def checkpoint(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A family's tiny checkpoint; `sd2` is what `sd21` in `family_samples` is not: of Stable Diffusion 2's layers."""
    made: dict[str, Path] = {"sd1": tiny_model}

    def of(family: str) -> Path:
        if family not in made:
            folder = tmp_path_factory.mktemp("checkpoints") / family
            made[family] = _sd2(tiny_model, folder) if family == "sd2" else make(family, tiny_model, folder)
        return made[family]

    return of


def _sd2(sd1: Path, out: Path) -> Path:
    make("sd21", sd1, out)
    pipeline = StableDiffusionPipeline.from_pretrained(out, safety_checker=None, requires_safety_checker=False)
    torch.manual_seed(1)
    unet = UNet2DConditionModel.from_config({**pipeline.unet.config, "use_linear_projection": True})
    shutil.rmtree(out)
    pipeline.register_modules(unet=unet)
    pipeline.save_pretrained(out)
    return out


@pytest.fixture
def with_lora(checkpoint: Callable[[str], Path]) -> Callable[[str], PipelineModel]:
    """A family's model with a LoRA that does something."""

    def of(family: str) -> PipelineModel:
        model = load_model(str(checkpoint(family)), lora_rank=RANK, lora_alpha=ALPHA)
        torch.manual_seed(2)
        for parameter in trainable(model.network):
            parameter.data = 0.3 * torch.randn_like(parameter)
        return model

    return of
