"""`diffdpo score`: score images that are there already, or measure how far scorers agree with people."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from diffdpo.commands.judges import SCORER_HELP
from diffdpo.errors import UserError

HELP = "score images with one or more scorers, or measure the scorers on human choices"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--scorer",
        action="append",
        required=True,
        metavar="S",
        help=SCORER_HELP,
    )
    add("--dir", metavar="DIR", help="images named by the prompt's position: 00000.png, 00001.jpg ...")
    add("--prompts", metavar="FILE", help="the prompts of --dir (default: DIR/prompts.jsonl)")
    add(
        "--table",
        metavar="FILE",
        help="instead: .csv, .tsv, .jsonl or .parquet with the columns prompt and path; "
        "a .parquet may hold the images in a column image",
    )
    add("--pair", nargs=2, metavar=("A", "B"), help="instead: two images of one prompt; says which is preferred")
    add("--prompt", metavar="TEXT", help="the prompt of --pair")
    add("--evaluate", metavar="SET", help="instead: accuracy on hpdv2, imagereward, pickapic, or pairs of your own")
    add("--data", metavar="DIR", help="the folder of the test set of --evaluate")
    add("--images", metavar="DIR", help="where the images of --evaluate are, if not below --data")
    add(
        "--thresholds",
        choices=("published", "all"),
        default="published",
        help="for ties in pickapic: try 0, 0.1 ... 1 (default), or every one that differs",
    )
    add(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="an image that cannot be scored stops the run (default), or is left out and recorded with the reason",
    )
    add("--out", metavar="FILE", help="write CSV, or JSON with --evaluate (default: to standard output)")
    add("--device", default="auto", help="cpu, cuda, cuda:1, mps (default: the GPU if there is one)")
    add("--dry-run", action="store_true", help="check everything, score nothing")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from diffdpo.commands import score_modes
    from diffdpo.commands.judges import parse_names

    _check(args)
    scorers = list(parse_names(args.scorer))
    if args.dry_run:
        return {"dry_run": True, "images": score_modes.count(args), "scorers": scorers}
    if args.evaluate is not None:
        return score_modes.score_test_set(args)
    return score_modes.score_pair(args) if args.pair is not None else score_modes.score_list(args)


def show(result: dict[str, Any]) -> None:
    from diffdpo.commands.score_modes import csv_line

    if result.get("dry_run"):
        print(f"would score {result['images']} images with {', '.join(result['scorers'])}")
        return
    if "test_set" in result:
        _show_accuracies(result)
    elif "pair" in result:
        _show_preferences(result)
    elif result["out"] is None:
        rows = result["rows"]
        sys.stdout.write("".join(map(csv_line, [rows[0].keys(), *(row.values() for row in rows)])))
    else:
        for name, scores in result["scorers"].items():
            spread = f"(standard deviation {scores['std']:.4g})"
            print(f"{name}: mean {scores['mean']:.4g} {spread} of {result['images']} images; {scores['scale']}")
    if result["out"] is not None:
        print(f"{'results' if 'test_set' in result else 'scores'} in {result['out']}")


def _show_preferences(result: dict[str, Any]) -> None:
    first, second = result["pair"]
    for name, found in result["scorers"].items():
        verdict = "equal" if found["preferred"] is None else f"{found['preferred']} is preferred"
        scores = "{:.6g}, {:.6g}".format(*found["scores"])
        print(f"{name}: {first} and {second}: {scores}; {verdict}; {found['scale']}")


def _show_accuracies(result: dict[str, Any]) -> None:
    for name, found in result["scorers"].items():
        low, high = found["interval"]
        size = f"{found['comparisons']} comparisons, {found['prompts']} prompts"
        tie = "" if found["threshold"] is None else f"; tie up to {found['threshold']:.3g}"
        interval = f"(95% interval {low:.1%} to {high:.1%})"
        print(f"{name} on {result['test_set']}: {found['accuracy']:.1%} {interval}; {size}{tie}")
        if found["note"] is not None:
            print(f"note: {found['note']}")


def _check(args: argparse.Namespace) -> None:
    """One source of images, and with it what belongs to it."""
    sources = {"--dir": args.dir, "--table": args.table, "--pair": args.pair, "--evaluate": args.evaluate}
    if sum(value is not None for value in sources.values()) != 1:
        raise UserError("score needs either --dir or --table, or instead --pair or --evaluate, and one of them only")
    if args.table is not None and args.prompts is not None:
        raise UserError("--prompts goes with --dir; a --table has its own column of prompts")
    belonging = {"prompts": "--dir", "prompt": "--pair", "data": "--evaluate", "images": "--evaluate"}
    for option, source in belonging.items():
        if getattr(args, option) is not None and sources[source] is None:
            raise UserError(f"--{option} goes with {source}")
    if args.pair is not None and not (args.prompt or "").strip():
        raise UserError("--pair needs a --prompt, and not an empty one")
    if args.evaluate is not None and args.data is None:
        raise UserError("--evaluate needs --data, the folder of the test set")
    if args.out is not None and Path(args.out).is_dir():
        raise UserError(f"--out {args.out}: this is a folder; name a file in it")
