"""One model, or one folder of images, on one suite: from the arguments of `diffdpo bench` to a run folder."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffdpo.commands.generate import make_source

if TYPE_CHECKING:
    from diffdpo.benchmarks.registry import Suite
    from diffdpo.models.sampling import Sampling
    from scorers.base import Scorer

ANTIALIASED = ("hpsv2", "hpsv2.1", "shapes-hpsv2")
"""Scorers that take the option `antialias`."""


def run_one(args: argparse.Namespace) -> dict[str, Any]:
    """Draw or take the images and measure them.

    Raises:
        UserError: something that was given cannot be used.
    """
    from diffdpo.benchmarks.blocks import Part
    from diffdpo.benchmarks.suite import check_suite, run_suite
    from diffdpo.commands.judges import parse_names

    suite = open_suite(args)
    weights = parse_names(args.scorer or suite.scorers)
    sampling = sampling_of(args, suite)
    source = None if args.model is None else make_source(args, sampling)
    asked: dict[str, Any] = {
        "scorers": list(weights),
        "images": args.images,
        "limit": args.limit,
        "seed": args.seed,
        "part": None if args.part is None else Part.parse(args.part),
        "batch_size": args.batch_size,
    }

    def settings(*, ask_hub: bool = True) -> dict[str, Any]:
        drawn = {} if source is None else source_settings(args, sampling, ask_hub=ask_hub)
        return {"scorer_weights": _weights(weights), "antialias": bool(args.antialias), **drawn}

    if args.dry_run:
        state = check_suite(suite, args.out, **asked, settings=lambda: settings(ask_hub=False))
        plan = {"dry_run": True, "suite": suite.name, "images": len(suite.take(args.limit)), "state": state}
        plan |= {"scorers": list(weights), "out": args.out}
        return plan if source is None else {**plan, "memory_gb": source.memory_gb()}
    opener = _opener(args, weights)
    result = run_suite(suite, args.out, draw=source, load_scorer=opener, settings=settings(), **asked)
    return {"out": args.out, **result.summary}


def _opener(args: argparse.Namespace, weights: Mapping[str, str | None]) -> Callable[[str], Scorer]:
    """What opens a scorer by its name, with the weights and options that the arguments give it."""
    from diffdpo.devices import pick_device

    device = pick_device(args.device)

    def load(name: str) -> Scorer:
        import scorers

        options: dict[str, Any] = {"antialias": True} if args.antialias and name in ANTIALIASED else {}
        return scorers.load(name, model=weights[name], device=device, **options)

    return load


def open_suite(args: argparse.Namespace) -> Suite:
    """The suite that the arguments ask for, with its prompts.

    Raises:
        UserError: there is none, it does not take one of the options, or its files cannot be used.
    """
    from diffdpo.benchmarks import registry
    from diffdpo.devices import pick_device

    given = {field.name: getattr(args, field.name) for field in fields(registry.Options)}
    given["styles"] = tuple(args.styles or ())
    if args.suite == "geneval":
        given["device"] = pick_device(args.device)
    else:
        del given["device"]
    return registry.find(args.suite, registry.Options(**given))


def sampling_of(args: argparse.Namespace, suite: Suite) -> Sampling:
    """How images are drawn: as asked for, and else as the suite has it.

    Raises:
        UserError: settings that make no sense.
    """
    from diffdpo.models.sampling import Sampling

    return Sampling(
        steps=suite.steps if args.steps is None else args.steps,
        guidance=suite.guidance if args.guidance is None else args.guidance,
        size=args.size,
        batch_size=args.batch_size,
    )


def source_settings(args: argparse.Namespace, sampling: Sampling, *, ask_hub: bool) -> dict[str, Any]:
    """What decides the images. Models count by their content: a folder may be trained over, a repository changed.

    Raises:
        UserError: a model that is neither here nor on the hub.
    """
    from diffdpo.devices import pick_device, pick_dtype
    from diffdpo.labeling.generate import identity
    from diffdpo.models.sampling import scheduler_name
    from diffdpo.runs import UNREAD
    from diffdpo.shapes.weights import resolve_model

    def content(key: str, model: str | None, file: str) -> dict[str, str | None]:
        if model is None or not (ask_hub or Path(model).exists()):
            return {f"{key}_content": None if model is None else UNREAD}
        return {f"{key}_content": next(iter(identity(model, file).values()))}

    dtype = pick_dtype(args.precision, pick_device(args.device))
    model = resolve_model(args.model)
    return {
        "model": args.model,
        **content("model", model, "model_index.json"),
        "lora": args.lora,
        **content("lora", args.lora, "pytorch_lora_weights.safetensors"),
        "sampler": scheduler_name(model) if ask_hub or Path(model).exists() else UNREAD,
        "steps": sampling.steps,
        "guidance": sampling.guidance,
        "size": sampling.size,
        "precision": str(dtype).removeprefix("torch."),
    }


def _weights(weights: Mapping[str, str | None]) -> dict[str, str]:
    """Local weights by name and content."""
    from diffdpo.runs import content_hash

    return {name: f"{Path(path).name} {content_hash(path)}" for name, path in weights.items() if path is not None}
