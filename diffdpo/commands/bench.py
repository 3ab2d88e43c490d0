"""`diffdpo bench`: draw or take the images of a suite, and score them."""

from __future__ import annotations

import argparse
from typing import Any

from diffdpo.benchmarks.registry import SUITES
from diffdpo.errors import UserError

HELP = "measure a model, several, or images that are there, on a fixed suite"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"suites:\n{_listing()}"
    parser.add_argument("suite", metavar="SUITE", nargs="?", help="one of those below")
    parser.add_argument("--list", action="store_true", help="say which suites there are, and do nothing")
    _add_sources(parser)
    _add_suite_options(parser)
    _add_measuring(parser)
    _add_drawing(parser)
    parser.add_argument("--out", metavar="DIR", help="the folder to make, or to go on with")
    parser.add_argument("--dry-run", action="store_true", help="check everything, start nothing")


def _add_sources(parser: argparse.ArgumentParser) -> None:
    add = parser.add_mutually_exclusive_group().add_argument
    add("--model", help="a diffusers folder, a hub name, or `shapes`, the built-in one")
    add("--models", nargs="+", metavar="M", help="several, each in a folder of --out, and a table of all")
    add("--checkpoints", metavar="RUN", help="those of a training run, as several models")
    add("--images", metavar="DIR", help="images made elsewhere, named as the suite's publisher names them")
    add("--merge", nargs="+", metavar="PART", help="put folders made with --part together")
    parser.add_argument("--lora", metavar="PATH", help="a LoRA folder or file for the model")
    parser.add_argument(
        "--reference",
        metavar="M",
        help="of several models: the one that drift is measured from (default: the first; of checkpoints, their base)",
    )


def _add_suite_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the suite").add_argument
    add("--data", metavar="WHERE", help="the suite's published files: a folder, a file, or a dataset on the hub")
    add("--prompts", metavar="FILE", help="prompts: .txt with one per line, .csv, .tsv, .json, .jsonl or .parquet")
    add("--split", help="pickapic: validation (default) or test")
    add("--style", action="append", dest="styles", metavar="S", help="hpsv2: only this one; give it again for more")
    add("--repeat", type=int, dest="repeats", metavar="N", help="geneval: images for each prompt (default: 4)")
    add("--detector", metavar="M", help="geneval: object detector, a hub name or folder of transformers")
    add("--colors", metavar="M", help="geneval: the CLIP that tells colours, a hub name or folder")
    add("--limit", type=int, metavar="N", help="use the first N prompts, which keep the suite's mix")


def _add_measuring(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scorer",
        action="append",
        metavar="S",
        help="NAME, or NAME=PATH for local weights (vlm-judge: a local model or a JSON file of options); "
        "give it again for more (default: those of the suite)",
    )
    parser.add_argument(
        "--antialias", action="store_true", help="in the resize of HPS scorers (default: none, as published)"
    )
    parser.add_argument(
        "--encoder",
        default="clipscore",
        metavar="S",
        help="of several models: the scorer whose image encoder measures drift, or NAME=PATH (default: clipscore)",
    )


def _add_drawing(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--steps", type=int, metavar="K", help="denoising steps (default: the suite's)")
    add("--guidance", type=float, metavar="G", help="classifier-free guidance scale (default: the suite's)")
    add("--size", type=int, metavar="PX", help="edge of the square images (default: the model's own)")
    add("--seed", type=int, default=0, metavar="S", help="of all images (default: 0)")
    add("--batch-size", type=int, default=8, metavar="B", help="images at a time (default: 8)")
    add("--part", metavar="I/N", help="draw and score only the I-th of N parts, on one of N machines; then --merge")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps (default: the GPU if any)")
    add("--precision", default="auto", help="fp32, bf16, fp16 of the model (default: fp16 on CUDA, else fp32)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    if args.list:
        return {"suites": {name: entry.about for name, entry in SUITES.items()}}
    _check(args)
    if args.merge is not None:
        return _merge(args)
    if args.models is not None or args.checkpoints is not None:
        from diffdpo.commands.bench_sweep import run_sweep

        return run_sweep(args)
    from diffdpo.commands.bench_run import run_one

    return run_one(args)


def show(result: dict[str, Any]) -> None:
    if "suites" in result:
        print(_listing())
        return
    if result.get("dry_run"):
        _show_plan(result)
        return
    if "sweep" in result:
        from diffdpo.commands.bench_sweep import show_sweep

        show_sweep(result)
        return
    if "part" in result:
        print(f"part {result['part']}: {result['images']} images in {result['out']}")
        print("when all parts are there: diffdpo bench " + result["suite"] + " --merge PART PART ... --out DIR")
        return
    from diffdpo.benchmarks.text import run_text

    print(f"{result['prompts']} {result['title']}, in {result['out']}")
    print(run_text(result))


def _show_plan(result: dict[str, Any]) -> None:
    from diffdpo.commands.generate import spell_memory

    where = f"{result['out']} ({result['state']})"
    print(f"would score {result['images']} images of suite {result['suite']} in {where}")
    if result.get("models"):
        print(f"models: {', '.join(result['models'])}")
    print(f"scorers: {', '.join(result['scorers']) or 'none'}")
    if "memory_gb" in result:
        print(spell_memory(result["memory_gb"]))


def _merge(args: argparse.Namespace) -> dict[str, Any]:
    from diffdpo.benchmarks.merge import merge_parts

    merged = merge_parts(args.merge, args.out, suite=args.suite, dry_run=args.dry_run)
    if merged is None:
        plan: dict[str, Any] = {"dry_run": True, "suite": args.suite, "out": args.out, "scorers": []}
        return {**plan, "images": "the", "state": f"{len(args.merge)} parts put together"}
    return {"out": args.out, **merged.summary}


def _check(args: argparse.Namespace) -> None:
    """One suite, one source of images, and with it what belongs to it."""
    if args.suite is None:
        raise UserError(f"bench: name a suite, one of {', '.join(SUITES)}")
    if all(getattr(args, name) is None for name in ("model", "models", "checkpoints", "images", "merge")):
        raise UserError("bench: say what to measure: --model, --models, --checkpoints, --images or --merge")
    if args.out is None:
        raise UserError("bench: name the folder of the results with --out DIR")
    several = args.models is not None or args.checkpoints is not None
    if args.lora is not None and args.model is None:
        raise UserError(f"--lora {args.lora}: goes with --model")
    if args.reference is not None and not several:
        raise UserError(f"--reference {args.reference}: goes with --models or --checkpoints")
    if args.part is not None and (several or args.merge is not None):
        raise UserError(f"--part {args.part}: goes with --model or --images")


def _listing() -> str:
    width = max(map(len, SUITES))
    return "\n".join(f"  {name:<{width}}  {entry.about}" for name, entry in SUITES.items())
