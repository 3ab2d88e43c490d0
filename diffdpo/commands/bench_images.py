"""`diffdpo bench` on a suite of images: a model, images that are there, parts of a run, or several models."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from diffdpo.commands.judges import SCORER_HELP
from diffdpo.errors import UserError

if TYPE_CHECKING:
    from argparse import _ArgumentGroup

OPTIONS = "of image suites"


def add_arguments(group: _ArgumentGroup) -> None:
    """What only suites of images take; None where it is not given."""
    add = group.add_argument
    add("--data", metavar="WHERE", help="the suite's published files: a folder, a file, or a dataset on the hub")
    add("--split", help="pickapic: validation (default) or test")
    add("--style", action="append", dest="styles", metavar="S", help="hpsv2: only this one; give it again for more")
    add("--repeat", type=int, dest="repeats", metavar="N", help="geneval: images for each prompt (default: 4)")
    add("--detector", metavar="M", help="geneval: object detector, a hub name or folder of transformers")
    add("--colors", metavar="M", help="geneval: the CLIP that tells colours, a hub name or folder")
    add(
        "--scorer",
        action="append",
        metavar="S",
        help=f"{SCORER_HELP} (default: those of the suite)",
    )
    add("--antialias", action="store_true", default=None, help="in the resize of HPS scorers (default: as published)")
    add("--steps", type=int, metavar="K", help="denoising steps (default: the suite's)")
    add("--guidance", type=float, metavar="G", help="classifier-free guidance scale (default: the suite's)")
    add("--size", type=int, metavar="PX", help="edge of the square images (default: the model's own)")
    add("--part", metavar="I/N", help="make only the I-th of N parts, on one of N machines; then --merge them")
    add("--drift-from", metavar="M", help="of --models: the one that drift is measured from (default: the first)")
    add("--encoder", metavar="S", help="of several models: the scorer whose image encoder measures drift, or NAME=PATH")


def run(args: argparse.Namespace) -> dict[str, Any]:
    several = args.models is not None or args.checkpoints is not None
    _check(args, several)
    if args.merge is not None:
        return _merge(args)
    if several:
        from diffdpo.commands.bench_sweep import run_sweep

        return run_sweep(args)
    from diffdpo.commands.bench_one import run_one

    return run_one(args)


def show(result: dict[str, Any]) -> None:
    if result.get("dry_run"):
        _show_plan(result)
    elif "sweep" in result:
        print(result["table"])
        print(f"numbers: {result['csv']}, plot: {result['plot']}")
    elif "part" in result:
        print(f"part {result['part']}: {result['images']} images in {result['out']}")
        print(f"when all parts are there: diffdpo bench {result['suite']} --merge PART PART ... --out DIR")
    else:
        from diffdpo.benchmarks.run_tables import run_tables

        print(f"{result['prompts']} {result['title']}, in {result['out']}")
        print(run_tables(result))


def _show_plan(result: dict[str, Any]) -> None:
    from diffdpo.commands.generate import spell_memory

    where = f"{result['out']} ({result['state']})"
    if "parts" in result:
        print(f"would put {len(result['parts'])} parts of suite {result['suite']} together in {where}")
        return
    print(f"would score {result['images']} images of suite {result['suite']} in {where}")
    if "models" in result:
        print(f"models: {', '.join(result['models'])}")
    print(f"scorers: {', '.join(result['scorers']) or 'none'}")
    if "memory_gb" in result:
        print(spell_memory(result["memory_gb"]))


def _merge(args: argparse.Namespace) -> dict[str, Any]:
    from diffdpo.benchmarks.merge import check_parts, merge_parts

    if args.dry_run:
        state = check_parts(args.merge, args.out, suite=args.suite)
        return {"dry_run": True, "suite": args.suite, "parts": args.merge, "out": args.out, "state": state}
    return {"out": args.out, **merge_parts(args.merge, args.out, suite=args.suite).summary}


def _check(args: argparse.Namespace, several: bool) -> None:
    """What goes with what."""
    if args.lora is not None and args.model is None:
        raise UserError(f"--lora {args.lora}: goes with --model")
    if args.encoder is not None and not several:
        raise UserError(f"--encoder {args.encoder}: goes with --models or --checkpoints")
    if args.drift_from is not None and args.models is None:
        raise UserError(f"--drift-from {args.drift_from}: goes with --models; checkpoints are held against their base")
    if args.part is not None and (several or args.merge is not None):
        raise UserError(f"--part {args.part}: goes with --model or --images")
