"""`diffdpo report`: two benchmark runs, and the training between them, as one page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HELP = "write report.html, its numbers and a model card on two benchmark runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from diffdpo.commands.compare import add_run_arguments

    add_run_arguments(parser)
    parser.add_argument("--training", metavar="RUN", help="folder of the training run, for its curves and the card")
    parser.add_argument("--out", metavar="DIR", help="where the report goes (default: RUN_B/report)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from diffdpo.benchmarks.curves import read_charts
    from diffdpo.benchmarks.report.page import CARD, JSON, write_report
    from diffdpo.benchmarks.results import read_run
    from diffdpo.benchmarks.words import headline, judge_sentence
    from diffdpo.commands.compare import check_runs, compare_runs, notes
    from diffdpo.runs import check_place

    a, b = read_run(args.run_a), read_run(args.run_b)
    out = Path(args.run_b) / "report" if args.out is None else Path(args.out)
    check_place(out)
    if args.training is not None:
        read_charts(args.training)
    if args.dry_run:
        check_runs(args, a, b)
        return {"dry_run": True, "prompts": len(a.rows), "out": str(out)}
    found = compare_runs(args, a, b)
    page = write_report(out, found, a, b, args.training, trained(args.training))
    first, backing = headline(found)
    return {
        "report": str(page),
        "numbers": str(page.with_name(JSON)),
        "card": str(page.with_name(CARD)),
        "headline": [f"{first}.", backing, judge_sentence(found)],
        "warnings": list(found.warnings),
        "notes": notes(found),
    }


def trained(folder: str | None) -> dict[str, list[str]]:
    """How the model was trained, for the card: what a whole run of an image method recorded, else nothing."""
    from diffdpo.config import IMAGE_METHODS
    from diffdpo.runs import is_complete, read_json
    from diffdpo.training.folder import CONFIG
    from diffdpo.training.image import card

    if folder is None or not is_complete(folder) or not (Path(folder) / CONFIG).is_file():
        return {}
    config = read_json(Path(folder) / CONFIG)
    if config.get("method") not in IMAGE_METHODS:
        return {}
    return card.trained(card.Record.read(Path(folder), config["training"]["steps"]))


def show(result: dict[str, Any]) -> None:
    if result.get("dry_run"):
        print(f"would report on {result['prompts']} prompts in {result['out']}")
        return
    print("\n".join(sentence for sentence in result["headline"] if sentence))
    for note in result["notes"]:
        print(f"note: {note}")
    print(f"report: {result['report']}")
