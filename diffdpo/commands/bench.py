"""`diffdpo bench`: what all suites share, and which module has the suite. Images and language models part there."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from diffdpo.errors import UserError

HELP = "measure a model, or images that are there, on a fixed suite"
LANGUAGE = {"text": "bench_text", "truthfulqa": "bench_truthfulqa"}
"""Suites for language models, and their modules in `diffdpo.commands`; every other one is of images."""
IMAGES = "bench_images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "suite",
        metavar="SUITE",
        help="of images: shapes, or prompts, those of a file of your own; of language models: text (win rate against "
        "a baseline) or truthfulqa",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="a folder, a hub name, or a built-in one: shapes; words (language)")
    source.add_argument("--images", metavar="DIR", help="instead: images named by the prompt's number")
    parser.add_argument("--lora", metavar="PATH", help="a LoRA folder or file for the model")
    parser.add_argument("--prompts", metavar="FILE", help="for `prompts` and `text`: .txt with one per line, ...")
    parser.add_argument("--limit", type=int, metavar="N", help="use the first N prompts or questions")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of all that is drawn (default: 0)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="B", help="prompts at a time (default: 8)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps (default: the GPU if any)")
    parser.add_argument(
        "--precision",
        default="auto",
        help="fp32, bf16, fp16 of an image model (default: fp16 on CUDA, else fp32); language models run in fp32",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to make, or to go on with")
    parser.add_argument("--dry-run", action="store_true", help="check everything, start nothing")
    for name in (IMAGES, *LANGUAGE.values()):
        module = _module(name)
        module.add_arguments(parser.add_argument_group(module.OPTIONS))


def run(args: argparse.Namespace) -> dict[str, Any]:
    own = LANGUAGE.get(args.suite, IMAGES)
    for name in {IMAGES, *LANGUAGE.values()} - {own}:
        _refuse(args, _options(name) - _options(own))
    if own != IMAGES:
        _refuse(args, {"images"})
        if args.precision not in ("auto", "fp32"):
            raise UserError(f"--precision {args.precision}: language models are measured in fp32")
    result: dict[str, Any] = _module(own).run(args)
    return {"suite": args.suite, **result}


def show(result: dict[str, Any]) -> None:
    _module(LANGUAGE.get(result["suite"], IMAGES)).show(result)


def _refuse(args: argparse.Namespace, names: set[str]) -> None:
    for name in sorted(names):
        if getattr(args, name) is not None:
            raise UserError(f"--{name.replace('_', '-')}: not an option of `bench {args.suite}`")


def _options(module: str) -> set[str]:
    """Names of the options that only this kind of suite has; None where they are not given."""
    parser = argparse.ArgumentParser(add_help=False)
    _module(module).add_arguments(parser.add_argument_group())
    return {action.dest for action in parser._actions}


def _module(name: str) -> Any:
    return importlib.import_module(f"diffdpo.commands.{name}")
