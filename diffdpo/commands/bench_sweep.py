"""Several models, or the checkpoints of a training run, on one suite: each a run of its own, and a table of all."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffdpo.errors import UserError
from diffdpo.progress import say

NOT_ENCODED = "note: no --encoder: how far images moved and how diverse they are is not measured; say clipscore"
BASE = "base"
WEIGHTS = "weights"
"""The folder below --out where checkpoints are exported to, so that the one chosen is at hand."""


@dataclass(frozen=True)
class Entrant:
    """One model of a sweep. `name` is also its folder's."""

    name: str
    model: str
    lora: str | None = None
    step: int | None = None


def run_sweep(args: argparse.Namespace) -> dict[str, Any]:
    """Measure every model in turn, then hold all against the reference.

    Raises:
        UserError: something that was given cannot be used.
    """
    from diffdpo.benchmarks.results import read_run
    from diffdpo.benchmarks.sweep import points as sweep
    from diffdpo.commands.bench_one import run_one
    from diffdpo.commands.encoders import encoder_name, open_encoder
    from diffdpo.runs import check_place

    out = Path(args.out)
    check_place(out)
    entrants, reference = checkpoints(args) if args.checkpoints is not None else models(args)
    if encoder_name(args.encoder, args.suite) is None:
        say(NOT_ENCODED)
    if args.dry_run:
        return _plan(args, entrants)
    encoder = open_encoder(args.encoder, args.suite, args.device)
    for number, entrant in enumerate(entrants, 1):
        say(f"[{number}/{len(entrants)}] {entrant.name}")
        export_weights(args, entrant)
        run_one(_one(args, entrant))
    runs = {entrant.name: read_run(out / entrant.name) for entrant in entrants}
    steps = {entrant.name: entrant.step for entrant in entrants if entrant.step is not None}
    points = sweep.measure(runs, reference, encode=encoder, steps=steps)
    table, plot = sweep.write_sweep(out, points, reference, None if encoder is None else encoder.name)
    shown = {"sweep": [entrant.name for entrant in entrants], "table": sweep.table(points, reference)}
    return {**shown, "reference": reference, "out": args.out, "csv": str(table), "plot": str(plot)}


def models(args: argparse.Namespace) -> tuple[list[Entrant], str]:
    """The models of --models under names of their own, and the name of the reference.

    Raises:
        UserError: one is given twice, or the reference is none of them.
    """
    given = list(args.models)
    if args.drift_from is not None and args.drift_from not in given:
        given.insert(0, args.drift_from)
    for model in given:
        if given.count(model) > 1:
            raise UserError(f"--models: {model} is given twice")
    short = [_name(model) for model in given]
    names = [name if short.count(name) == 1 else f"{name}-{place}" for place, name in enumerate(short, 1)]
    entrants = [Entrant(name, *_with_lora(model)) for name, model in zip(names, given, strict=True)]
    reference = given[0] if args.drift_from is None else args.drift_from
    return entrants, names[given.index(reference)]


def checkpoints(args: argparse.Namespace) -> tuple[list[Entrant], str]:
    """The base model of a training run and its checkpoints. Nothing is exported yet.

    Raises:
        UserError: it is no training run of an image model, or has no checkpoint.
    """
    from diffdpo.runs import read_json
    from diffdpo.training.checkpoints import steps
    from diffdpo.training.folder import CONFIG, modality_of

    run = Path(args.checkpoints)
    there = steps(run / "checkpoints")
    if not (run / CONFIG).is_file() or modality_of(run) != "image" or not there:
        raise UserError(f"--checkpoints {run}: no training run of an image model with checkpoints in it")
    config = read_json(run / CONFIG)
    base = config["model"]["path"]
    tuned = []
    for step in there:
        weights = str(Path(args.out) / WEIGHTS / f"step-{step}")
        lora = config["lora"]["rank"] > 0
        tuned.append(Entrant(f"step-{step}", base if lora else weights, weights if lora else None, step))
    return [Entrant(BASE, base, step=0), *tuned], BASE


def export_weights(args: argparse.Namespace, entrant: Entrant) -> None:
    """Write a checkpoint's weights below --out, unless they are there or it is none."""
    weights = Path(args.out) / WEIGHTS / entrant.name
    if entrant.step and not weights.exists():
        from diffdpo.runs import whole_folder
        from diffdpo.training.image.export import export_newest

        with whole_folder(weights) as unfinished:
            export_newest(Path(args.checkpoints), unfinished, step=entrant.step)


def _plan(args: argparse.Namespace, entrants: list[Entrant]) -> dict[str, Any]:
    """What a dry run tells; every model that is there already is checked like one alone."""
    from diffdpo.commands.bench_one import run_one

    plans = [run_one(_one(args, entrant)) for entrant in entrants if entrant.step in (None, 0)]
    plan: Mapping[str, Any] = plans[0]
    return {**plan, "out": args.out, "models": [entrant.name for entrant in entrants]}


def _one(args: argparse.Namespace, entrant: Entrant) -> argparse.Namespace:
    out = str(Path(args.out) / entrant.name)
    return argparse.Namespace(**{**vars(args), "model": entrant.model, "lora": entrant.lora, "out": out})


def _with_lora(given: str) -> tuple[str, str | None]:
    """`MODEL` or `MODEL+LORA` -> model and LoRA."""
    model, _, lora = (given, "", "") if Path(given).exists() else given.partition("+")
    return model, lora or None


def _name(given: str) -> str:
    """A folder's name for a model or, if it has one, its LoRA: the last part of the path or hub name. `runs/dpo/model`
    is called `dpo`."""
    model, lora = _with_lora(given)
    path = Path(lora or model)
    named = path.parent if path.name in ("model", "lora") and path.parent.name else path
    return named.name
