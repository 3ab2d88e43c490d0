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

from diffdpo.config import ImageConfig
from diffdpo.data.latents import LatentCache
from diffdpo.data.triplets import TripletStore
from diffdpo.errors import UserError
from diffdpo.models import registry
from diffdpo.models.export.form import AS_TRAINED
from diffdpo.models.pipeline_model import PipelineModel
from diffdpo.models.protocol import ImageModel, Predict
from diffdpo.runs import content_hash
from diffdpo.training.card import Record, write_card
from diffdpo.training.data_keys import framing_of, framing_settings, pair_weights, unused_keys
from diffdpo.training.folder import (
    content_of,
    finished,
    lasting,
    run_name,
    without_pace,
    work_in,
    write_whole,
)
from diffdpo.training.loop import Outcome, train
from diffdpo.training.methods import make_recipe
from diffdpo.training.optimization import check_optimizer
from diffdpo.training.order import make_order
from diffdpo.training.processes import is_sharded, new_accelerator, part
from diffdpo.training.reference import ReferenceTable, reference_table
from diffdpo.training.referenced import ReferencedRecipe
from diffdpo.training.samples import OpenMeasure, SampleWatch
from diffdpo.training.splits import held_out


def run_images(config: ImageConfig, open_measure: OpenMeasure | None = None) -> dict[str, Any]:
    """Train, or go on, or find it done. Returns what the manifest records as results.

    Args:
        open_measure: what the grids of `samples` are measured by.

    Raises:
        UserError: an unfit store, model or output folder; besides whatever `open_measure` raises.
    """
    store = TripletStore.open(config.data.path)
    train_rows, held_out_rows = split_rows(store, config)
    weights = pair_weights(store, train_rows, config.data)
    settings = run_settings(config, store)
    accelerator = new_accelerator(config.training.precision)
    done = finished(Path(config.output), settings)
    if done is not None:
        return done
    check_optimizer(config.training.optimizer, accelerator.device)
    # Model and data first: a folder is only taken when nothing the user gave stands in the way.
    model = load_model(config, accelerator.device)
    cache = open_cache(config, store, model)
    watch = None
    if config.samples.every is not None:
        if is_sharded():
            raise UserError("samples.every: grids are drawn from a whole network, and FSDP parts it; leave the key out")
        captions = [store.captions[row] for row in held_out_rows]
        watch = SampleWatch(config, captions, model, accelerator, open_measure)
    model.forget_encoders()

    def tune(folder: Path) -> Outcome:
        # Ahead of the reference pass, since it decides the attention kernel, and both must use the same.
        if config.training.gradient_checkpointing:
            model.network.enable_gradient_checkpointing()  # type: ignore[operator]
        own = own_reference(config, model, accelerator)
        recipe = make_recipe(config, model, cache, train_rows, held_out_rows, accelerator.device, own, weights)
        if config.model.reference == "cached":
            assert isinstance(recipe, ReferencedRecipe), "the config refuses it otherwise"
            recipe.use(compute_table(config, settings, store, recipe, accelerator))
        if watch is not None:
            watch.begin(folder)
        return train(
            recipe,
            config.training,
            seed=config.seed,
            run=run_name(settings),
            folder=folder,
            accelerator=accelerator,
            watch=watch,
        )

    def export(folder: Path, outcome: Outcome) -> dict[str, Any]:
        results: dict[str, Any] = {
            "exported": "lora" if config.lora.rank else "model",
            "pairs": len(train_rows),
            "held_out_pairs": len(held_out_rows),
            "labelers": sorted({name for row in train_rows if (name := store.labelers[row])}),
            "figures": lasting(outcome),
        }

        def write(place: Path) -> None:
            model.export(place, outcome.weights)
            record = Record.read(folder, config.training.steps, results)
            write_card(place, record, AS_TRAINED, model.pipeline_class, Path(config.output).name)

        write_whole(folder / results["exported"], write)
        return results

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
    share = training.batch_size * accelerator.num_processes
    buckets = recipe.buckets
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
        **told(config),
        **framing_settings(config.data),
    }
    if buckets is not None:
        identity["block"] = share  # which, with buckets, moves the order that the table is kept in
    if is_sharded():
        identity["sharded"] = True  # another memory layout, see `load_model`
    with accelerator.autocast():
        return reference_table(
            cache_root(config),
            identity,
            make_order(recipe.n_examples, buckets, share * training.accumulation, share, config.seed),
            training.steps,
            compute=recipe.compute_reference,
            compute_held_out=recipe.compute_held_out_reference,
            batch_size=training.batch_size,
            accelerator=accelerator,
        )


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
    return LatentCache.open_or_build(
        cache_root(config),
        store,
        encode_images=model.encode_images,
        encode_prompts=model.encode_prompts,
        encoder=model.encoder_identity(),
        framing=framing_of(config.data, model.side_multiple),
        batch_size=encode_batch(config, store),
    )
