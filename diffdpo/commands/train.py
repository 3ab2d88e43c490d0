"""`diffdpo train`: run a recipe."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffdpo.collector import collector_at_rest
from diffdpo.commands.disk import cache_disk, show_disk
from diffdpo.commands.memory import show_memory, training_memory

if TYPE_CHECKING:
    import torch

    from diffdpo.config import ImageConfig, ScorerConfig, TextConfig
    from scorers.trainable import Start, Trainable

HELP = "tune a model on preferences, as a config file says"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _shipped()
    parser.add_argument("config", metavar="CONFIG.yaml", help="a file of your own, or one that comes along (below)")
    add = parser.add_argument
    add(
        "overrides",
        nargs="*",
        default=[],
        metavar="section.key=value",
        help="change keys of the config, such as data.path=runs/pairs output=runs/dpo training.steps=500",
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, start nothing")


def _shipped() -> str:
    from diffdpo.recipes import shipped

    names = [f"  {name}" for name in shipped()]
    return "configs that come along; sd15_dpo_lora.yaml and text_dpo.yaml say what the keys do:\n" + "\n".join(names)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from diffdpo.config import ScorerConfig, TextConfig, load_config
    from diffdpo.recipes import find_config

    config = load_config(find_config(args.config), args.overrides)
    if isinstance(config, ScorerConfig):
        return _run_scorer(config, dry_run=args.dry_run)
    if isinstance(config, TextConfig):
        return _run_text(config, dry_run=args.dry_run)
    return _run_images(config, dry_run=args.dry_run)


def show(result: dict[str, Any]) -> None:
    unit = next(unit for unit in ("judgements", "examples", "pairs") if unit in result)
    what, held_out = f"{result[unit]} {unit}", result[f"held_out_{unit}"]
    if result.get("dry_run"):
        print(f"would train {result['model']} on {what} ({held_out} held out)")
        if "records" in result:
            print(f"read: {result['records']}; the longest sequence has {result['longest']} tokens")
        at_once = f"{result['batch_size']} at a time" + ", checkpointed" * result["gradient_checkpointing"]
        each = f"{result['pairs_per_step']} {unit} each ({at_once})"
        print(f"steps: {result['steps']}, of {each}, into {result['output']}")
        if "sample_every" in result:
            print(f"sample grids: {result['sample_images']} images every {result['sample_every']} steps")
        if "memory_parts_gb" in result:
            show_memory(result)
            show_disk(result)
        elif result["memory_gb"] is None:
            print("memory: not counted, the model is not here yet and would be fetched from the hub")
        else:
            counted = "optimiser" if result["optimizer"] == "adamw" else "optimiser (as large as adamw's)"
            print(f"memory: {result['memory_gb']:.2g} GB for weights, gradients and {counted}, and activations on top")
        return
    figures = result["figures"]
    print(f"trained on {what}: {Path(result['output']) / result['exported']}")
    accuracy = figures.get("accuracy", figures.get("rewards/accuracies"))
    told = "" if accuracy is None else f", training accuracy {accuracy:.1%}"
    print(f"loss {figures['loss']:.4f}{told}")
    if "eval/reward" in figures:
        reward, kl = figures["eval/reward"], figures["eval/kl"]
        print(f"held-out reward {reward:.4g} at a KL of {kl:.3g} nats to the reference, on {held_out} {unit}")
        return
    if "eval/accuracy" in figures:
        print(f"held-out accuracy {figures['eval/accuracy']:.1%} on {held_out} {unit}")
    elif "eval/perplexity" in figures:
        print(f"held-out perplexity {figures['eval/perplexity']:.4g} on {held_out} {unit}")
    elif not held_out:
        print(f"no {unit} held out, so none to check it on; raise data.held_out_share")
    if "load" in result:
        print(f"score with it: {result['load']}")


def _run_images(config: ImageConfig, *, dry_run: bool) -> dict[str, Any]:
    from diffdpo.shapes.weights import resolve_model

    config = dataclasses.replace(config, model=dataclasses.replace(config.model, path=resolve_model(config.model.path)))
    if dry_run:
        return _plan_images(config)
    with collector_at_rest():
        from diffdpo.commands.measure import open_measure
        from diffdpo.training.image.runner import run_images

    return {"output": config.output, **run_images(config, open_measure)}


def _plan_images(config: ImageConfig) -> dict[str, Any]:
    from diffdpo.commands.measure import check_scorers
    from diffdpo.data.triplets import TripletStore
    from diffdpo.runs import check_claim
    from diffdpo.training.image.data_keys import pair_weights
    from diffdpo.training.image.fitting import settle
    from diffdpo.training.image.inputs import run_settings, split_rows, trained_size
    from diffdpo.training.image.samples import sample_prompts

    store = TripletStore.open(config.data.path)
    train_rows, held_out_rows = split_rows(store, config)
    pair_weights(store, train_rows, config.data)
    check_claim(config.output, "train", lambda: run_settings(config, store))
    size = trained_size(config, store)
    config = settle(config, size)
    grids = {}
    if config.samples.every is not None:
        check_scorers(config.samples.scorers)
        prompts = sample_prompts(config, [store.captions[row] for row in held_out_rows])
        grids = {"sample_every": config.samples.every, "sample_images": len(prompts)}
    return {
        **_plan(config),
        **grids,
        "pairs": len(train_rows),
        "held_out_pairs": len(held_out_rows),
        **training_memory(config, size),
        **cache_disk(config, store, size),
    }


def _plan(config: ImageConfig | ScorerConfig | TextConfig) -> dict[str, Any]:
    return {
        "dry_run": True,
        "model": config.model.path,
        "output": config.output,
        "steps": config.training.steps,
        "optimizer": config.training.optimizer,
        "pairs_per_step": config.training.micro_batch * config.training.accumulation,
        "batch_size": config.training.micro_batch,
        "gradient_checkpointing": config.training.gradient_checkpointing,
    }


def _run_text(config: TextConfig, *, dry_run: bool) -> dict[str, Any]:
    with collector_at_rest():
        from diffdpo.commands.train_text import plan_text, train_text

    return {**_plan(config), **plan_text(config)} if dry_run else {"output": config.output, **train_text(config)}


def _run_scorer(config: ScorerConfig, *, dry_run: bool) -> dict[str, Any]:
    config = _built_in(config)
    if dry_run:
        return _plan_scorer(config)
    with collector_at_rest():
        from diffdpo.training.judge.runner import run_judge

    results = run_judge(config, open_judge)
    return {"output": config.output, **results, "load": _load_call(config, Path(config.output) / results["exported"])}


def _plan_scorer(config: ScorerConfig) -> dict[str, Any]:
    from diffdpo.data.judgements import open_judgements
    from diffdpo.models.memory.weights import trained_memory_gb
    from diffdpo.runs import check_claim
    from diffdpo.training.judge.runner import judge_settings, split_judgements
    from scorers.trainable import count_parameters

    judgements = open_judgements(config.data.path, config.data.images)
    train_rows, held_out_rows = split_judgements(judgements, config)
    check_claim(config.output, "train", lambda: judge_settings(config, judgements))
    counted = count_parameters(_start(config))
    ema = config.training.ema is not None
    return {
        **_plan(config),
        "judgements": len(train_rows),
        "held_out_judgements": len(held_out_rows),
        "memory_gb": None if counted is None else trained_memory_gb(*counted, ema=ema),
    }


def open_judge(config: ScorerConfig, device: torch.device) -> Trainable:
    """The scorer that a config starts from, on a device: what `training` is handed, which knows no scorers."""
    from scorers.trainable import Trainable

    return Trainable(_start(config), device)


def _start(config: ScorerConfig) -> Start:
    from scorers.trainable import Start

    model = dataclasses.asdict(config.model)
    return Start(model=model.pop("path"), **model)


def _built_in(config: ScorerConfig) -> ScorerConfig:
    """With the files of the micro world's judges in place of their names."""
    from diffdpo.errors import UserError
    from diffdpo.shapes import weights

    model = config.model
    if model.path not in ("shapes-pickscore", "shapes-hpsv2"):
        return config
    if model.path != f"shapes-{model.scorer}":
        raise UserError(f"model.path: {model.path} is no {model.scorer}; set model.scorer to match")
    if model.scorer == "pickscore":
        model = dataclasses.replace(model, path=str(weights.PICKSCORE))
    else:
        files = weights.HPSV2 / "hpsv2.safetensors", weights.HPSV2 / "open_clip_config.json"
        model = dataclasses.replace(model, path=str(files[0]), architecture=str(files[1]))
    return dataclasses.replace(config, model=model)


def _load_call(config: ScorerConfig, folder: Path) -> str:
    """The Python call that opens the result."""
    if config.model.scorer == "pickscore":
        return f'scorers.load("pickscore", model="{folder}")'
    from scorers.trainable import HPS_ARCHITECTURE, HPS_WEIGHTS

    files = f'model="{folder / HPS_WEIGHTS}", architecture="{folder / HPS_ARCHITECTURE}"'
    return f'scorers.load("hpsv2", {files})'
