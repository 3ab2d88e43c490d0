"""Models of the true architectures with random weights: as large and as slow as the real ones, and nothing to fetch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffdpo.models.memory.architectures import architecture_of, published, published_encoders
from diffdpo.models.pipeline_model import PipelineModel
from diffdpo.models.registry import family_of, load_model
from diffdpo.runs import read_json
from diffdpo.shapes.weights import GENERATOR

MODELS = ("tiny", "sd15", "sdxl")
"""`tiny` has the shape of the micro world's generator."""
TRAINED = "shapes"
"""The micro world's generator itself, with the weights that come along: for what depends on them."""
SIZES = {"tiny": 32, TRAINED: 32, "sd15": 512, "sdxl": 1024}
"""Pixels that each was made for."""


@dataclass(frozen=True)
class Configs:
    """The configs of a pipeline's networks, each with its `_class_name`, by their names in the pipeline."""

    pipeline: str
    networks: Mapping[str, Mapping[str, Any]]


def configs_of(name: str) -> Configs:
    """One of `MODELS`, or `TRAINED`."""
    if name in ("tiny", TRAINED):
        architecture = architecture_of(str(GENERATOR))
        assert architecture is not None
        encoders = {part: read_json(GENERATOR / part / "config.json") for part in ("vae", "text_encoder")}
        encoders["text_encoder"]["_class_name"] = "CLIPTextModel"
    else:
        architecture, encoders = published(name), published_encoders(name)
    return Configs(architecture.pipeline, {"unet": architecture.network, **encoders})


def open_model(name: str, *, device: str = "cpu", seed: int = 0, **options: Any) -> PipelineModel:
    """`TRAINED`, or one of `MODELS` with random weights. `options` are of `PipelineModel`."""
    if name == TRAINED:
        return load_model(str(GENERATOR), device=device, **options)
    return random_model(name, device=device, seed=seed, **options)


def random_model(name: str, *, device: str = "cpu", seed: int = 0, **options: Any) -> PipelineModel:
    """A model of random weights, made on `device`.

    Args:
        options: of `PipelineModel`.
    """
    configs = configs_of(name)
    torch.manual_seed(seed)
    with torch.device(device):
        networks = {part: _network(config) for part, config in configs.networks.items()}
    tokens = networks["text_encoder"].config.max_position_embeddings
    tokenizers = {
        part.replace("text_encoder", "tokenizer"): _tokenizer(tokens) for part in networks if "text_encoder" in part
    }
    pipeline = _pipeline(configs.pipeline, {**networks, **tokenizers})
    return family_of(configs.pipeline, name)(pipeline, f"random/{name}", device=device, **options)


def _network(config: Mapping[str, Any]) -> Any:
    import diffusers
    import transformers

    kind = config["_class_name"]
    if hasattr(diffusers, kind):
        return getattr(diffusers, kind).from_config(dict(config))
    options = {key: value for key, value in config.items() if key not in ("_class_name", "architectures", "dtype")}
    return getattr(transformers, kind)(transformers.CLIPTextConfig(**options))


def _tokenizer(tokens: int) -> Any:
    """The micro world's: what a prompt says does not change the work."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(Path(GENERATOR) / "tokenizer", model_max_length=tokens)


def _pipeline(kind: str, parts: dict[str, Any]) -> Any:
    import diffusers

    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False
    )
    if kind == "StableDiffusionXLPipeline":
        return diffusers.StableDiffusionXLPipeline(**parts, scheduler=scheduler, add_watermarker=False)
    return diffusers.StableDiffusionPipeline(
        **parts, scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


def take_encoders(model: PipelineModel) -> dict[str, Any]:
    """Take the encoders out of a model, as a run does before its first step; returns them by their names."""
    taken = {name: getattr(model.pipeline, name) for name in ("vae", *model.text_encoders)}
    model.forget_encoders()
    return taken


def put_back(model: PipelineModel, encoders: Mapping[str, Any]) -> None:
    for name, part in encoders.items():
        setattr(model.pipeline, name, part)


def uncompile(network: Any) -> None:
    """Take back what `compile_blocks` did to a network."""
    for module in network.modules():
        module._compiled_call_impl = None
