"""Prompts and seeds to images, through the model's own diffusers pipeline.

The noise of an image is a function of its seed alone: neither the batch it is drawn in nor the machine changes it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import nn

from diffdpo.collector import collector_at_rest
from diffdpo.errors import UserError
from diffdpo.models.attention import attention_kernel
from diffdpo.models.single_file import open_single_file

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_SCHEDULER = "scheduler/scheduler_config.json"


@dataclass(frozen=True)
class Sampling:
    """How images are drawn. `size` in pixels (square); None is what the model was trained for."""

    steps: int = 50
    guidance: float = 7.5
    size: int | None = None
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"--steps {self.steps}: images need at least 1 step")
        if self.batch_size < 1:
            raise UserError(f"--batch-size {self.batch_size}: at least 1 image at a time")
        if not math.isfinite(self.guidance):
            raise UserError(f"--guidance {self.guidance}: a finite number is wanted")
        if self.size is not None and self.size < 1:
            raise UserError(f"--size {self.size}: at least 1 pixel")


@collector_at_rest()
def load_pipeline(
    model: str,
    *,
    lora: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    own_scheduler: bool = False,
    own_t5: bool = False,
) -> DiffusionPipeline:
    """Open a diffusers pipeline from a folder, a hub name or a single file, with the scheduler set to DDIM.

    Args:
        lora: a folder or file that `load_lora_weights` opens; fused into the weights.
        own_scheduler: keep the scheduler that the model came with.
        own_t5: keep a T5 in the dtype that the folder stores it in, whatever `dtype` is: in float32 it takes 19 GB.

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
        if Path(model).is_file():
            pipeline = open_single_file(Path(model), dtype)
        else:
            dtypes = {"default": dtype, **dict.fromkeys(_t5(model) if own_t5 else (), "auto")}
            pipeline = DiffusionPipeline.from_pretrained(model, dtype=dtypes, **_absent(model))
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
    if hasattr(pipeline, "watermark"):
        pipeline.watermark = None  # SDXL's, which would mark what a judge is to see
    # As the trainer has it; in float32 on a CPU the other layout is the faster one.
    if dtype != torch.float32 and hasattr(pipeline, "unet"):
        pipeline.unet.to(memory_format=torch.channels_last)
    return pipeline.to(device)


def scheduler_name(model: str) -> str:
    """The class of the scheduler that `load_pipeline` draws a model with. Asks the hub for one that is not here.

    Raises:
        UserError: the model has no scheduler's config, or the hub does not give it.
    """
    if Path(model).is_file():
        beside = Path(model).with_suffix("") / _SCHEDULER
        if not beside.is_file():
            return "its family's"
        path = beside
    elif Path(model).is_dir():
        path = Path(model) / _SCHEDULER
    else:
        from huggingface_hub import hf_hub_download

        try:
            path = Path(hf_hub_download(model, _SCHEDULER))
        except Exception as error:  # as in `load_pipeline`
            raise UserError(f"model {model!r}: {_why_not(model, error)}") from None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"model {model!r}: {_why_not(model, error)}") from None
    return "DDIMScheduler" if "beta_schedule" in config else str(config.get("_class_name"))


def generate(
    pipeline: DiffusionPipeline, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling
) -> list[Image.Image]:
    """One image for each (prompt, seed), in order, at most `sampling.batch_size` at a time.

    Raises:
        UserError: the pipeline cannot draw in that size or in so many steps.
    """
    check_fits(pipeline, sampling)
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds")
    return draw(pipeline, lambda part: {"prompt": list(prompts[part])}, seeds, sampling)


def draw(
    pipeline: DiffusionPipeline, inputs: Callable[[slice], dict[str, Any]], seeds: Sequence[int], sampling: Sampling
) -> list[Image.Image]:
    """`generate`, of a pipeline that is given its texts by `inputs`: the arguments of the images of a batch."""
    size = {} if sampling.size is None else {"height": sampling.size, "width": sampling.size}
    images: list[Image.Image] = []
    for start in range(0, len(seeds), sampling.batch_size):
        part = slice(start, start + sampling.batch_size)
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds[part]]
        with attention_kernel(pipeline.device.type, _latent_pixels(pipeline, sampling.size)):
            output = pipeline(
                **inputs(part),
                generator=generators,
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance,
                **size,
            )
        images += output.images
    return images


def check_fits(pipeline: DiffusionPipeline, sampling: Sampling) -> None:
    """Raise UserError if the pipeline cannot draw in that size or in so many steps."""
    most = pipeline.scheduler.config.get("num_train_timesteps", sampling.steps)
    if sampling.steps > most:
        raise UserError(f"--steps {sampling.steps}: the model was trained with {most} steps, so that is the most")
    # Pipelines with a UNet ask for multiples of 8, whatever their own factor; transformers take latents in 2 x 2.
    own = pipeline.vae_scale_factor
    edge = math.lcm(8, own) if hasattr(pipeline, "unet") else 2 * own
    if sampling.size is not None and sampling.size % edge:
        near = max(edge, round(sampling.size / edge) * edge)
        raise UserError(f"--size {sampling.size}: this model draws multiples of {edge} pixels; {near} is the nearest")


def denoiser(pipeline: DiffusionPipeline) -> nn.Module:
    """The network that is called in every step."""
    network: nn.Module = getattr(pipeline, "unet", None) or pipeline.transformer
    return network


def computes_in_half(pipeline: DiffusionPipeline) -> bool:
    """Whether nothing is computed in float32.

    SDXL decodes in float32 where it was loaded in float16, unless its autoencoder says that it need not.
    """
    networks = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
    vae = pipeline.vae
    upcast = hasattr(pipeline, "upcast_vae") and vae.dtype == torch.float16 and vae.config.force_upcast
    return not upcast and all(weight.dtype != torch.float32 for part in networks for weight in part.parameters())


def _latent_pixels(pipeline: DiffusionPipeline, size: int | None) -> int:
    factor = pipeline.vae_scale_factor
    # Flux's network has no size of its own, its pipeline has a default.
    own = getattr(denoiser(pipeline).config, "sample_size", None) or pipeline.default_sample_size
    return int(size // factor if size else own) ** 2


def _absent(model: str) -> dict[str, Any]:
    """Parts to open as None: those that the folder says it has not (SD3 without its T5), and SD1.x's safety checker,
    which would blacken images behind the labeller's back."""
    index = Path(model) / "model_index.json"
    content = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else {"safety_checker": True}
    absent: dict[str, Any] = {name: None for name, part in content.items() if isinstance(part, list) and not part[0]}
    if "safety_checker" in content:
        absent |= {"safety_checker": None, "requires_safety_checker": False}
    return absent


def _t5(model: str) -> list[str]:
    """The parts of a folder or hub model that are a T5."""
    from diffusers import DiffusionPipeline

    index = DiffusionPipeline.load_config(model)
    return [name for name, part in index.items() if isinstance(part, list) and part[1] == "T5EncoderModel"]


def _why_not(model: str, error: Exception) -> str:
    if Path(model).is_dir():
        return f"the folder is not a whole diffusers pipeline ({_one_line(error)})"
    if Path(model).is_file():
        return (
            f"the file cannot be opened as a whole checkpoint ({_one_line(error)}); without a network, put a folder"
            f" with the configs and tokenizers of its diffusers pipeline beside it, named {Path(model).stem}"
        )
    return f"neither a folder here nor a model that can be fetched from the hub ({_one_line(error)})"


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
