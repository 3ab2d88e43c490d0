"""`diffdpo train`: run a recipe."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffdpo.config import DpoConfig

HELP = "tune a model on preferences, as a config file says"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG.yaml")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change keys of the config")
    parser.add_argument("--dry-run", action="store_true", help="check everything, start nothing")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from diffdpo.config import load_config
    from diffdpo.recipes import find_config
    from diffdpo.shapes.weights import resolve_model

    config = load_config(find_config(args.config), args.overrides)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, path=resolve_model(config.model.path)))
    if args.dry_run:
        return _plan(config)
    from diffdpo.training.runner import run_dpo

    return {"output": config.output, **run_dpo(config)}


def show(result: dict[str, Any]) -> None:
    if result.get("dry_run"):
        print(f"would train {result['model']} on {result['pairs']} pairs ({result['held_out_pairs']} held out)")
        print(f"for {result['steps']} steps of {result['pairs_per_step']} pairs, into {result['output']}")
        if result["memory_gb"] is None:
            print("memory: not counted, the model is not here yet and would be fetched from the hub")
        else:
            print(f"memory: {result['memory_gb']:.2g} GB for weights, gradients and optimiser, and activations on top")
        return
    figures = result["figures"]
    print(f"trained on {result['pairs']} pairs: {Path(result['output']) / result['exported']}")
    print(f"loss {figures['loss']:.4f}, training accuracy {figures['rewards/accuracies']:.1%}")
    if "eval/accuracy" in figures:
        print(f"held-out accuracy {figures['eval/accuracy']:.1%} on {result['held_out_pairs']} pairs")


def _plan(config: DpoConfig) -> dict[str, Any]:
    from diffdpo.data.triplets import TripletStore
    from diffdpo.models.memory import training_memory_gb
    from diffdpo.training.runner import split_rows

    store = TripletStore.open(config.data.path)
    train_rows, held_out_rows = split_rows(store, config)
    return {
        "dry_run": True,
        "model": config.model.path,
        "output": config.output,
        "pairs": len(train_rows),
        "held_out_pairs": len(held_out_rows),
        "steps": config.training.steps,
        "pairs_per_step": config.training.batch_size * config.training.accumulation,
        "memory_gb": training_memory_gb(
            config.model.path,
            config.lora.rank,
            ema=config.training.ema is not None,
            copy=config.model.reference == "copy",
        ),
    }
