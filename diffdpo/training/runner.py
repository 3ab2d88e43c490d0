"""From a config to a finished run folder: the store, the model, the cache, the recipe, the loop, the export."""

from __future__ import annotations

import dataclasses
import io
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image

from diffdpo.config import DpoConfig, build
from diffdpo.data.latents import LatentCache
from diffdpo.data.triplets import TripletStore
from diffdpo.errors import UserError
from diffdpo.models.stable_diffusion import StableDiffusion
from diffdpo.runs import content_hash
from diffdpo.training.diffusion_dpo import DiffusionDpo
from diffdpo.training.folder import content_of, finished, lasting, read_run, run_name, work_in
from diffdpo.training.loop import Outcome, new_accelerator, train
from diffdpo.training.order import Order
from diffdpo.training.reference import ReferenceTable, reference_table
from diffdpo.training.splits import held_out


def run_dpo(config: DpoConfig) -> dict[str, Any]:
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
    # Model and data first: a folder is only taken when nothing the user gave stands in the way.
    model = load_model(config, accelerator.device)
    cache = open_cache(config, store, model)
    model.forget_encoders()

    def tune(folder: Path) -> Outcome:
        recipe = DiffusionDpo(
            model,
            cache,
            train_rows,
            held_out_rows,
            config.loss,
            seed=config.seed,
            caption_dropout=config.data.caption_dropout,
            timestep_power=config.training.timestep_power,
            device=accelerator.device,
            # Before training the network is its own reference: no copy is made for the pass that fills the table.
            reference=partial(model.predict, model.network) if config.model.reference == "cached" else None,
        )
        if config.model.reference == "cached":
            recipe.use(compute_table(config, settings, store, recipe, accelerator))
        if config.training.gradient_checkpointing:
            model.network.enable_gradient_checkpointing()  # type: ignore[operator]
        run = run_name(settings)
        return train(recipe, config.training, seed=config.seed, run=run, folder=folder, accelerator=accelerator)

    def export(folder: Path, outcome: Outcome) -> dict[str, Any]:
        exported = model.export(folder / ("lora" if config.lora.rank else "model"), outcome.weights)
        return {
            "exported": exported.name,
            "pairs": len(train_rows),
            "held_out_pairs": len(held_out_rows),
            "figures": lasting(outcome),
        }

    return work_in(config, settings, accelerator, train=tune, export=export)


def compute_table(
    config: DpoConfig, settings: dict[str, Any], store: TripletStore, recipe: DiffusionDpo, accelerator: Accelerator
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
        "rows": content_of([recipe.train_rows, recipe.held_out_rows]),
    }
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
    config = build(DpoConfig, settings)
    if not dry_run:
        model = load_model(config, torch.device("cpu"))
        model.export(out, checkpoint.average or checkpoint.weights)
    return out, checkpoint.step


def run_settings(config: DpoConfig, store: TripletStore) -> dict[str, Any]:
    """What decides the result of a run: the config, with the content of model and data in place of their paths."""
    settings = dataclasses.asdict(config)
    del settings["output"], settings["model"]["path"], settings["data"]["path"], settings["data"]["cache"]
    model = config.model.path
    settings["content"] = {
        "model": content_hash(model) if Path(model).is_dir() else model,
        "data": store.fingerprint(),
    }
    return settings


def split_rows(store: TripletStore, config: DpoConfig) -> tuple[list[int], list[int]]:
    """Rows to train on and rows to look at; all pairs of one caption fall on one side."""
    held = held_out(store.captions, config.data.held_out_share, config.seed)
    usable = store.keep(config.data.ties)
    train_rows = [row for row in usable if not held[row]]
    held_out_rows = [row for row in usable if held[row] and not store.ties[row]]
    if not train_rows:
        raise UserError(
            f"{config.data.path}: no pairs to train on (of {len(store)} in the store); label more, or keep ties"
        )
    return train_rows, held_out_rows


def load_model(config: DpoConfig, device: torch.device) -> StableDiffusion:
    """The model to train. Frozen weights next to a LoRA take the half precision that is trained in, on a GPU."""
    halves = {"bf16": torch.bfloat16, "fp16": torch.float16}
    on_gpu = device.type == "cuda"
    return StableDiffusion(
        config.model.path,
        lora_rank=config.lora.rank,
        lora_alpha=config.lora.effective_alpha,
        device=device,
        channels_last=on_gpu or config.training.precision == "bf16",
        frozen_dtype=halves.get(config.training.precision, torch.float32) if on_gpu else torch.float32,
        seed=config.seed,
    )


def encode_batch(config: DpoConfig, store: TripletStore) -> int:
    """Pairs to encode at a time: about half a million pixels, which the autoencoder takes in a few GB."""
    with Image.open(io.BytesIO(store[0].chosen)) as image:
        pixels = config.data.size**2 if config.data.size else image.width * image.height
    return min(32, max(1, 2**18 // pixels))


def cache_root(config: DpoConfig) -> Path:
    return Path(config.data.cache) if config.data.cache else Path(config.data.path) / "cache"


def open_cache(config: DpoConfig, store: TripletStore, model: StableDiffusion) -> LatentCache:
    return LatentCache.open_or_build(
        cache_root(config),
        store,
        encode_images=model.encode_images,
        encode_prompts=model.encode_prompts,
        encoder=model.encoder_identity(),
        size=config.data.size,
        batch_size=encode_batch(config, store),
    )
