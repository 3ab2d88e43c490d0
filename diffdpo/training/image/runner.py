"""From a config to a finished run folder: the store, the model, the cache, the recipe, the loop, the export."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from diffdpo.config import ImageConfig
from diffdpo.data.triplets import TripletStore
from diffdpo.errors import UserError
from diffdpo.models.export.form import AS_TRAINED
from diffdpo.models.protocol import ImageModel, Predict
from diffdpo.training.folder import (
    LATER,
    content_of,
    finished,
    lasting,
    run_name,
    work_in,
    write_whole,
)
from diffdpo.training.heap import freed_memory_kept
from diffdpo.training.image.card import Record, write_card
from diffdpo.training.image.data_keys import encoding_settings, pair_weights
from diffdpo.training.image.fitting import least_memory, refit, settle
from diffdpo.training.image.inputs import (
    cache_root,
    load_model,
    open_cache,
    run_settings,
    split_rows,
    told,
    trained_size,
)
from diffdpo.training.image.methods import make_recipe
from diffdpo.training.image.reference import ReferenceTable, reference_table
from diffdpo.training.image.referenced import ReferencedRecipe
from diffdpo.training.image.samples import OpenMeasure, SampleWatch
from diffdpo.training.loop import Outcome, train
from diffdpo.training.optimization import check_optimizer
from diffdpo.training.order import make_order
from diffdpo.training.processes import is_sharded, new_accelerator, of_the_main_process, part


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
    accelerator = new_accelerator(config.training.precision)
    settings = of_the_main_process(accelerator, lambda: run_settings(config, store))
    store.known_as(settings["content"]["data"])
    done = finished(Path(config.output), settings)
    if done is not None:
        return done
    check_optimizer(config.training.optimizer, accelerator.device)
    if config.training.compile and is_sharded():
        raise UserError("training.compile: cannot be had with parted weights (FSDP); leave the key out")
    may_refit = config.training.batch_size == "auto"
    least = least_memory(accelerator)
    config = of_the_main_process(accelerator, lambda: settle(config, trained_size(config, store), least))
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
        if config.training.compile:
            model.compile_blocks()
        own = own_reference(config, model, accelerator)
        recipe = make_recipe(config, model, cache, train_rows, held_out_rows, accelerator.device, own, weights)
        if config.model.reference == "cached":
            assert isinstance(recipe, ReferencedRecipe), "the config refuses it otherwise"
            with freed_memory_kept(accelerator.device):
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
            refit=partial(refit, folder) if may_refit else None,
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


def compute_table(
    config: ImageConfig,
    settings: dict[str, Any],
    store: TripletStore,
    recipe: ReferencedRecipe,
    accelerator: Accelerator,
) -> ReferenceTable:
    """`model.reference: cached`: the pass over the pairs, beside the cached latents."""
    training = config.training
    share = training.micro_batch * accelerator.num_processes
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
        **{key: getattr(training, key) for key, plain in LATER.items() if getattr(training, key) != plain},
        "rows": content_of([recipe.train_rows, recipe.held_out_rows]),
        **told(config),
        **encoding_settings(config.data),
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
            batch_size=training.micro_batch,
            accelerator=accelerator,
        )
