"""What a network looks like without its weights: from a checkpoint's own configs, or as published."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffdpo.errors import UserError
from diffdpo.runs import read_json

PUBLISHED = ("sd15", "sdxl")
"""Networks whose configs are written down here, as their authors published them."""
SINGLE_FILES = {"v1": "sd15", "xl_base": "sdxl"}
"""diffusers' names for the layouts of single files, and the published network in them."""
CLIP_TOKENS = 77


@dataclass(frozen=True)
class Architecture:
    """All that decides the shapes inside of a denoiser and of what it is given."""

    pipeline: str
    """The diffusers class of the checkpoint: its family."""
    network: Mapping[str, Any]
    """The denoiser's config, with its `_class_name`."""
    latent_channels: int
    pixels_per_latent: int
    """Pixels along an edge."""
    text_tokens: int
    """Of CLIP's text encoder."""


def published(name: str) -> Architecture:
    """One of `PUBLISHED`."""
    return _written_down(read_json(Path(__file__).with_name(f"{name}.json")))


def published_encoders(name: str) -> dict[str, dict[str, Any]]:
    """The configs of its autoencoder and text encoders, by their names in a pipeline, each with its `_class_name`."""
    encoders: dict[str, dict[str, Any]] = read_json(Path(__file__).with_name(f"{name}.json"))["encoders"]
    return encoders


def architecture_of(model: str) -> Architecture | None:
    """That of a diffusers folder, a single file or a hub name. Nothing is fetched: None where it is not known here.

    Raises:
        UserError: no such folder, or it is not a pipeline.
    """
    place = Path(model)
    if place.is_dir():
        return _of_folder(place)
    if place.is_file():
        beside = place.with_suffix("")  # see `models.single_file`
        return _of_folder(beside) if (beside / "model_index.json").is_file() else _of_single_file(place)
    if place.is_absolute() or model.startswith(".") or model.count("/") != 1:
        raise UserError(f"model {model!r}: no such folder, and a hub name reads owner/name")
    known = (read_json(Path(__file__).with_name(f"{name}.json")) for name in PUBLISHED)
    return next((_written_down(facts) for facts in known if model in facts["published_as"]), None)


def _written_down(facts: dict[str, Any]) -> Architecture:
    return Architecture(**{key: value for key, value in facts.items() if key not in ("published_as", "encoders")})


def _of_folder(folder: Path) -> Architecture:
    index = folder / "model_index.json"
    name = json.loads(index.read_text(encoding="utf-8")).get("_class_name") if index.is_file() else None
    network = next((part for part in ("unet", "transformer") if (folder / part / "config.json").is_file()), None)
    if name is None or network is None:
        raise UserError(
            f"{folder}: no model_index.json with a unet/ or transformer/ beside it, so this is no diffusers pipeline"
        )
    vae, text = (_config(folder / part) for part in ("vae", "text_encoder"))
    return Architecture(
        pipeline=name,
        network=read_json(folder / network / "config.json"),
        latent_channels=vae.get("latent_channels", 4),
        pixels_per_latent=2 ** (len(vae.get("block_out_channels", [0] * 4)) - 1),
        text_tokens=text.get("max_position_embeddings", CLIP_TOKENS),
    )


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    return dict(read_json(path)) if path.is_file() else {}


def _of_single_file(path: Path) -> Architecture | None:
    from diffdpo.models.single_file import kind_of

    try:
        name = SINGLE_FILES.get(kind_of(path))
    except Exception as error:  # safetensors and diffusers each raise their own kinds
        raise UserError(f"{path}: not a whole safetensors file ({error})") from None
    return None if name is None else published(name)
