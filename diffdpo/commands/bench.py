"""`diffdpo bench`: what all suites share, and which module measures the suite."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from diffdpo.benchmarks.registry import IMAGES, SUITES
from diffdpo.errors import UserError, unknown

HELP = "measure a model, several, or images that are there, on a fixed suite"
SOURCES = ("model", "models", "checkpoints", "images", "merge")
COMMANDS = tuple(dict.fromkeys(entry.command for entry in SUITES.values()))
"""The modules of `diffdpo.commands` that measure suites."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"suites:\n{_listing()}"
    parser.add_argument("suite", metavar="SUITE", nargs="?", help="one of those below")
    parser.add_argument("--list", action="store_true", help="say which suites there are, and do nothing")
    add = parser.add_mutually_exclusive_group().add_argument
    add("--model", help="a folder, a hub name, or a built-in one: shapes; words (language)")
    add("--models", nargs="+", metavar="M", help="several, each MODEL or MODEL+LORA, and a table of all")
    add("--checkpoints", metavar="RUN", help="those of a training run, as several models")
    add("--images", metavar="DIR", help="images made elsewhere, named as the suite's publisher names them")
    add("--merge", nargs="+", metavar="PART", help="put folders made with --part together")
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
    parser.add_argument("--out", metavar="DIR", help="the folder to make, or to go on with")
    parser.add_argument("--dry-run", action="store_true", help="check everything, start nothing")
    for name in COMMANDS:
        module = _module(name)
        module.add_arguments(parser.add_argument_group(module.OPTIONS))


def run(args: argparse.Namespace) -> dict[str, Any]:
    if args.list:
        return {"suites": {name: entry.about for name, entry in SUITES.items()}}
    _check(args)
    own = SUITES[args.suite].command
    for name in COMMANDS:
        _refuse(args, {dest: flag for dest, flag in _options(name).items() if dest not in _options(own)})
    if own != IMAGES:
        _refuse(args, {dest: f"--{dest}" for dest in SOURCES if dest != "model"})
        if args.precision not in ("auto", "fp32"):
            raise UserError(f"--precision {args.precision}: language models are measured in fp32")
    result: dict[str, Any] = _module(own).run(args)
    return {"suite": args.suite, **result}


def show(result: dict[str, Any]) -> None:
    if "suites" in result:
        print(_listing())
    else:
        _module(SUITES[result["suite"]].command).show(result)


def _check(args: argparse.Namespace) -> None:
    """One suite, one thing to measure, one place for the results."""
    if args.suite is None:
        raise UserError(f"bench: name a suite, one of {', '.join(SUITES)}")
    if args.suite not in SUITES:
        raise unknown("suite", args.suite, SUITES)
    if all(getattr(args, name) is None for name in SOURCES):
        raise UserError(f"bench: say what to measure, with one of {', '.join(f'--{name}' for name in SOURCES)}")
    if args.out is None:
        raise UserError("bench: name the folder of the results with --out DIR")


def _refuse(args: argparse.Namespace, options: dict[str, str]) -> None:
    for dest, flag in sorted(options.items()):
        if getattr(args, dest) is not None:
            raise UserError(f"{flag}: not an option of `bench {args.suite}`")


def _options(module: str) -> dict[str, str]:
    """The options that only suites of this module have, by destination; None where they are not given."""
    parser = argparse.ArgumentParser(add_help=False)
    _module(module).add_arguments(parser.add_argument_group())
    return {action.dest: action.option_strings[0] for action in parser._actions}


def _module(name: str) -> Any:
    return importlib.import_module(f"diffdpo.commands.{name}")


def _listing() -> str:
    width = max(map(len, SUITES))
    return "\n".join(f"  {name:<{width}}  {entry.about}" for name, entry in SUITES.items())
