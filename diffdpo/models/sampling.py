"""Prompts and seeds to images, through the model's own diffusers pipeline.

The noise of an image is a function of its seed alone: neither the batch it is drawn in nor the machine changes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from diffdpo.errors import UserError
from diffdpo.models.attention import attention_kernel

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@dataclass(frozen=True)
class Sampling:
    """How images are drawn. `size` in pixels (square); None is what the model was trained for."""

    steps: int = 50
    guidance: float = 7.5
    size: int | None = None
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise UserError(f"sampling needs at least 1 step and a batch of 1, not {self.steps} and {self.batch_size}")


def load_pipeline(
    model: str,
    *,
    lora: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    own_scheduler: bool = False,
) -> DiffusionPipeline:
    """Open a diffusers pipeline from a folder or a hub name, with the scheduler set to DDIM.

    Args:
        lora: a folder or file that `load_lora_weights` opens; fused into the weights.
        own_scheduler: keep the scheduler that the model came with.

    Raises:
        UserError: the model or the LoRA cannot be opened.
    """
    import transformers
    from diffusers import DDIMScheduler, DiffusionPipeline
    from diffusers.utils import logging as diffusers_logging

    # Their bars over five files would break up our own progress lines.
    diffusers_logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    try:
        pipeline = DiffusionPipeline.from_pretrained(model, dtype=dtype, **_without_safety_checker(model))
    except Exception as error:  # diffusers, safetensors and the hub client each raise their own kinds
        raise UserError(f"model {model!r}: {_why_not(model, error)}") from None
    if lora is not None:
        try:
            pipeline.load_lora_weights(lora)
            pipeline.fuse_lora()
            pipeline.unload_lora_weights()
        except Exception as error:  # as above, and peft's
            raise UserError(f"LoRA {lora!r}: cannot be loaded into {model!r} ({_one_line(error)})") from None
    if not own_scheduler and hasattr(pipeline.scheduler.config, "beta_schedule"):
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    # As the trainer has it; in float32 on a CPU the other layout is the faster one.
    if dtype != torch.float32 and hasattr(pipeline, "unet"):
        pipeline.unet.to(memory_format=torch.channels_last)
    return pipeline.to(device)


def generate(
    pipeline: DiffusionPipeline, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling
) -> list[Image.Image]:
    """One image for each (prompt, seed), in order, at most `sampling.batch_size` at a time."""
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds")
    size = {} if sampling.size is None else {"height": sampling.size, "width": sampling.size}
    images: list[Image.Image] = []
    for start in range(0, len(prompts), sampling.batch_size):
        part = slice(start, start + sampling.batch_size)
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds[part]]
        with attention_kernel(pipeline.device.type, _latent_pixels(pipeline, sampling.size)):
            output = pipeline(
                prompt=list(prompts[part]),
                generator=generators,
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance,
                **size,
            )
        images += output.images
    return images


def _latent_pixels(pipeline: DiffusionPipeline, size: int | None) -> int:
    factor = pipeline.vae_scale_factor
    edge = size // factor if size else (getattr(pipeline, "unet", None) or pipeline.transformer).config.sample_size
    return int(edge) ** 2


def _without_safety_checker(model: str) -> dict[str, Any]:
    """SD1.x folders may name a safety checker, which would blacken images behind the labeller's back."""
    index = Path(model) / "model_index.json"
    if index.is_file() and '"safety_checker"' not in index.read_text(encoding="utf-8"):
        return {}
    return {"safety_checker": None, "requires_safety_checker": False}


def _why_not(model: str, error: Exception) -> str:
    if Path(model).is_dir():
        return f"the folder is not a whole diffusers pipeline ({_one_line(error)})"
    return f"neither a folder here nor a model that can be fetched from the hub ({_one_line(error)})"


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
