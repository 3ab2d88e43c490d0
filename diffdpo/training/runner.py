"""From a config to a finished run folder: the store, the model, the cache, the recipe, the loop, the export."""

from __future__ import annotations

import dataclasses
import io
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image

from diffdpo.config import IMAGE_METHODS, ImageConfig, build
from diffdpo.data.latents import LatentCache
from diffdpo.data.triplets import TripletStore
from diffdpo.errors import UserError
from diffdpo.models import registry
from diffdpo.models.protocol import ImageModel, Predict
from diffdpo.runs import content_hash
from diffdpo.training.folder import (
    content_of,
    finished,
    lasting,
    read_run,
    run_name,
    without_pace,
    work_in,
    write_whole,
)
from diffdpo.training.loop import Outcome, train
from diffdpo.training.methods import make_recipe
from diffdpo.training.optimization import check_optimizer
from diffdpo.training.order import Order
from diffdpo.training.processes import is_sharded, new_accelerator, part
from diffdpo.training.reference import ReferenceTable, reference_table
from diffdpo.training.referenced import ReferencedRecipe
from diffdpo.training.splits import held_out


def run_images(config: ImageConfig) -> dict[str, Any]:
    """Train, or go on, or find it done. Returns what the manifest records as results.

    Raises:
        UserError: an unfit store, model or output folder.
    """
    store = TripletStore.open(config.data.path)
    train_rows, held_out_rows = split_rows(store, config)
    settings = run_settings(config, store)
    accelerator = new_accelerator(config.training.precision)
    done = finished(Path(config.output), settings)
    if done is not None:
        return done
    check_optimizer(config.training.optimizer, accelerator.device)
    # Model and data first: a folder is only taken when nothing the user gave stands in the way.
    model = load_model(config, accelerator.device)
    cache = open_cache(config, store, model)
    model.forget_encoders()

    def tune(folder: Path) -> Outcome:
        # Ahead of the reference pass, since it decides the attention kernel, and both must use the same.
        # First, for it moves the choice of attention kernel: the pass over the reference takes the policy's.
        if config.training.gradient_checkpointing:
            model.network.enable_gradient_checkpointing()  # type: ignore[operator]
        recipe = make_recipe(
            config,
            model,
            cache,
            train_rows,
            held_out_rows,
            accelerator.device,
            own_reference(config, model, accelerator),
        )
        if config.model.reference == "cached":
            assert isinstance(recipe, ReferencedRecipe), "the config refuses it otherwise"
            recipe.use(compute_table(config, settings, store, recipe, accelerator))
        run = run_name(settings)
        return train(recipe, config.training, seed=config.seed, run=run, folder=folder, accelerator=accelerator)

    def export(folder: Path, outcome: Outcome) -> dict[str, Any]:
        exported = "lora" if config.lora.rank else "model"
        write_whole(folder / exported, lambda place: model.export(place, outcome.weights))
        return {
            "exported": exported,
            "pairs": len(train_rows),
            "held_out_pairs": len(held_out_rows),
            "figures": lasting(outcome),
        }

    return work_in(config, settings, accelerator, train=tune, export=export)


def own_reference(config: ImageConfig, model: ImageModel, accelerator: Accelerator) -> Predict | None:
    """The reference, where it is not to be the one that the model makes by itself."""
    if config.model.reference == "cached":
        # Before training the network is its own reference: no copy is made for the pass that fills the table.
        return partial(model.predict, model.network)
    if config.model.reference == "copy" and is_sharded():
        frozen = deepcopy(model.network).requires_grad_(False).eval()
        return partial(model.predict, part(accelerator, frozen))
    return None


run_dpo = run_images
"""The name from the days of one method."""


def compute_table(
    config: ImageConfig,
    settings: dict[str, Any],
    store: TripletStore,
    recipe: ReferencedRecipe,
    accelerator: Accelerator,
) -> ReferenceTable:
    """`model.reference: cached`: the pass over the pairs, beside the cached latents."""
    training = config.training
    batch = training.batch_size * accelerator.num_processes * training.accumulation
    identity = {
        **settings["content"],
        "seed": config.seed,
        "precision": training.precision,
        "size": config.data.size,
        "caption_dropout": config.data.caption_dropout,
        "timestep_power": config.training.timestep_power,
        "device": accelerator.device.type,
        "lora": config.lora.rank > 0,
        "dtype": str(next(recipe.network.parameters()).dtype),
        "gradient_checkpointing": training.gradient_checkpointing,
        "rows": content_of([recipe.train_rows, recipe.held_out_rows]),
    }
    if is_sharded():
        identity["sharded"] = True  # another memory layout, see `load_model`
    with accelerator.autocast():
        return reference_table(
            cache_root(config),
            identity,
            Order(recipe.n_examples, batch, config.seed),
            training.steps,
            compute=recipe.compute_reference,
            compute_held_out=recipe.compute_held_out_reference,
            batch_size=training.batch_size,
            accelerator=accelerator,
        )


def export_newest(folder: Path, out: Path, *, dry_run: bool = False) -> tuple[Path, int]:
    """Write the weights of a run's newest checkpoint (its average, where it keeps one) to `out`.

    Returns:
        The folder, and the step the weights are from.

    Raises:
        UserError: `folder` is no training run or has no checkpoint yet, or `out` is in use.
    """
    settings, checkpoint = read_run(folder, out)
    config = build(IMAGE_METHODS[settings["method"]], settings)
    if not dry_run:
        model = load_model(config, torch.device("cpu"))
        model.export(out, checkpoint.exported)
    return out, checkpoint.step


def run_settings(config: ImageConfig, store: TripletStore) -> dict[str, Any]:
    """What decides the result of a run: the config, with the content of model and data in place of their paths."""
    settings = dataclasses.asdict(config)
    del settings["output"], settings["model"]["path"], settings["data"]["path"], settings["data"]["cache"]
    settings["training"] = without_pace(settings["training"])
    # Left out where it changes nothing, so that runs made before there was such a key still go on.
    if config.data.min_margin is None:
        del settings["data"]["min_margin"]
    settings["content"] = {
        "model": model_content(config.model.path),
        "data": store.fingerprint(),
    }
    return settings


def model_content(model: str) -> str:
    """The hash of a local model, of a single file together with the configs beside it; a hub name as it is."""
    place = Path(model)
    if not place.exists():
        return model
    beside = place.with_suffix("")  # see `models.single_file`
    parts = [place, beside] if place.is_file() and (beside / "model_index.json").is_file() else [place]
    return "+".join(map(content_hash, parts))


def split_rows(store: TripletStore, config: ImageConfig) -> tuple[list[int], list[int]]:
    """Rows to train on and rows to look at; all pairs of one caption fall on one side."""
    held = held_out(store.captions, config.data.held_out_share, config.seed)
    usable = store.keep(config.data.ties)
    least = config.data.min_margin
    train_rows = [
        row for row in usable if not held[row] and (least is None or store.ties[row] or store.margins[row] >= least)
    ]
    held_out_rows = [row for row in usable if held[row] and not store.ties[row]]
    if not train_rows:
        raise UserError(
            f"{config.data.path}: no pairs to train on (of {len(store)} in the store); label more, or keep ties"
        )
    return train_rows, held_out_rows


def load_model(config: ImageConfig, device: torch.device) -> ImageModel:
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
    )


def encode_batch(config: ImageConfig, store: TripletStore) -> int:
    """Pairs to encode at a time: about half a million pixels, which the autoencoder takes in a few GB."""
    try:
        with Image.open(io.BytesIO(store[0].chosen)) as image:
            pixels = config.data.size**2 if config.data.size else image.width * image.height
    except (OSError, ValueError, SyntaxError) as error:
        where = f"{store.folder}: pair {store.pair_ids[0]!r}"
        raise UserError(f"{where} has an image that cannot be opened ({error})") from None
    return min(32, max(1, 2**18 // pixels))


def cache_root(config: ImageConfig) -> Path:
    return Path(config.data.cache) if config.data.cache else Path(config.data.path) / "cache"


def open_cache(config: ImageConfig, store: TripletStore, model: ImageModel) -> LatentCache:
    return LatentCache.open_or_build(
        cache_root(config),
        store,
        encode_images=model.encode_images,
        encode_prompts=model.encode_prompts,
        encoder=model.encoder_identity(),
        size=config.data.size,
        batch_size=encode_batch(config, store),
    )
