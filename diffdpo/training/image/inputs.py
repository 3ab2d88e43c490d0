"""What a config names, found and opened: the store's rows, the model, the cache; and what of it all decides a run."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from diffdpo.config import ImageConfig
from diffdpo.data.latents import LatentCache
from diffdpo.data.triplets import TripletStore
from diffdpo.errors import UserError
from diffdpo.models import registry
from diffdpo.models.pipeline_model import PipelineModel
from diffdpo.models.protocol import ImageModel
from diffdpo.runs import content_hash
from diffdpo.training.folder import without_pace
from diffdpo.training.image.data_keys import framing_of, unused_keys
from diffdpo.training.processes import is_sharded
from diffdpo.training.splits import held_out, looked_at

CACHE_DTYPES: dict[str, Literal["float32", "bfloat16", "float16"]] = {
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
}
"""`data.cache_precision` in the cache's words."""


def run_settings(config: ImageConfig, store: TripletStore) -> dict[str, Any]:
    """What decides the result of a run: the config, with the content of model and data in place of their paths."""
    settings = dataclasses.asdict(config)
    settings["model"] = {"reference": config.model.reference, **told(config)}
    del settings["output"], settings["data"]["path"], settings["data"]["cache"]
    settings["training"] = without_pace(settings["training"])
    del settings["samples"]  # which moves no weight either
    # Left out where they change nothing, so that runs made before there were such keys still go on.
    for name in unused_keys(config.data):
        del settings["data"][name]
    settings["content"] = {
        "model": model_content(config.model.path),
        "data": store.fingerprint(),
    }
    return settings


def told(config: ImageConfig) -> dict[str, Any]:
    """What the config says of the network's inputs. Keys that are not set are left out, as above."""
    given = {"guidance": config.model.guidance, "max_sequence_length": config.model.max_sequence_length}
    return {key: value for key, value in given.items() if value is not None}


def model_content(model: str) -> str:
    """The hash of a local model, of a single file together with the configs beside it; a hub name as it is."""
    place = Path(model)
    if not place.exists():
        return model
    beside = place.with_suffix("")  # see `models.single_file`
    parts = [place, beside] if place.is_file() and (beside / "model_index.json").is_file() else [place]
    return "+".join(map(content_hash, parts))


def split_rows(store: TripletStore, config: ImageConfig) -> tuple[list[int], list[int]]:
    """Rows to train on and rows to look at; all pairs of one caption fall on one side. Ties are not looked at."""
    held = held_out(store.captions, config.data.held_out_share, config.seed)
    usable = store.keep(config.data.ties)
    least = config.data.min_margin
    train_rows = [
        row for row in usable if not held[row] and (least is None or store.ties[row] or store.margins[row] >= least)
    ]
    held_out_rows = [row for row in usable if held[row] and not store.ties[row]]
    if not train_rows:
        advice = "label more, or keep ties" if least is None else f"lower data.min_margin, which is {least:g}"
        raise UserError(f"{config.data.path}: no pairs to train on (of {len(store)} in the store); {advice}")
    return train_rows, looked_at(held_out_rows, store.pair_ids, config.data.held_out_pairs, config.seed)


def load_model(config: ImageConfig, device: torch.device) -> PipelineModel:
    """The model to train. Frozen weights next to a LoRA take the half precision that is trained in, on a GPU."""
    halves = {"bf16": torch.bfloat16, "fp16": torch.float16}
    on_gpu = device.type == "cuda"
    return registry.load_model(
        config.model.path,
        lora_rank=config.lora.rank,
        lora_alpha=config.lora.effective_alpha,
        device=device,
        channels_last=(on_gpu or config.training.precision == "bf16") and not is_sharded(),  # FSDP takes rows only
        frozen_dtype=halves.get(config.training.precision, torch.float32) if on_gpu else torch.float32,
        seed=config.seed,
        **told(config),
    )


def encode_batch(config: ImageConfig, store: TripletStore) -> int:
    """Pairs to encode at a time: about half a million pixels, which the autoencoder takes in a few GB."""
    height, width = trained_size(config, store)
    return min(32, max(1, 2**18 // (height * width)))


def trained_size(config: ImageConfig, store: TripletStore) -> tuple[int, int]:
    """Height and width that images are trained at, in pixels; told by the store's first one where they stay as they
    are."""
    try:
        with Image.open(io.BytesIO(store[0].chosen)) as image:
            return (config.data.size, config.data.size) if config.data.size else (image.height, image.width)
    except (OSError, ValueError, SyntaxError) as error:
        where = f"{store.folder}: pair {store.pair_ids[0]!r}"
        raise UserError(f"{where} has an image that cannot be opened ({error})") from None


def cache_root(config: ImageConfig) -> Path:
    return Path(config.data.cache) if config.data.cache else Path(config.data.path) / "cache"


def open_cache(config: ImageConfig, store: TripletStore, model: ImageModel) -> LatentCache:
    """The encoded store; encoded now where it is not.

    Raises:
        UserError: an image that cannot be encoded, or a size that the model cannot be trained at.
    """
    if not config.data.buckets:
        model.check_size(*trained_size(config, store))
    return LatentCache.open_or_build(
        cache_root(config),
        store,
        encode_images=model.encode_images,
        encode_prompts=model.encode_prompts,
        encoder=model.encoder_identity(),
        dtype=CACHE_DTYPES[config.data.cache_precision],
        framing=framing_of(config.data, model.side_multiple),
        batch_size=encode_batch(config, store),
    )
