"""`diffdpo compare`: two benchmark runs, prompt by prompt."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffdpo.benchmarks.compare import Comparison
    from diffdpo.benchmarks.results import BenchRun

HELP = "compare two benchmark runs on the same prompts and seeds"
UNNAMED = "no --labeled-by: if one of these scorers chose the training pairs, name it, for its own gain is no evidence"
NOT_ENCODED = "no --encoder: how diverse the images are was not measured; name a scorer made of a CLIP, say clipscore"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument("--out", metavar="DIR", help="also write the comparison there, as JSON and as CSV")


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """What `compare` and `report` share."""
    parser.add_argument("run_a", metavar="RUN_A", help="folder of the run before, made by `diffdpo bench`")
    parser.add_argument("run_b", metavar="RUN_B", help="folder of the run after")
    parser.add_argument(
        "--labeled-by",
        action="append",
        default=[],
        metavar="S",
        help="a scorer that chose the training pairs: its gain is no evidence; give it again for more "
        "(default: those that the training run of a measured model names)",
    )
    parser.add_argument(
        "--encoder",
        metavar="S",
        help="a scorer made of a CLIP (NAME or NAME=PATH) in whose image encoder diversity is measured, say clipscore",
    )
    parser.add_argument("--device", default="auto", help="of the encoder: cpu, cuda, ... (default: the GPU if any)")
    parser.add_argument("--dry-run", action="store_true", help="check that the runs compare, start nothing")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from diffdpo.benchmarks import terminal
    from diffdpo.benchmarks.numbers import COMPARISON, comparison_json, write_tables
    from diffdpo.benchmarks.results import read_run
    from diffdpo.benchmarks.tables import comparison_table
    from diffdpo.benchmarks.words import headline, judge_sentence
    from diffdpo.runs import check_place, write_json

    a, b = read_run(args.run_a), read_run(args.run_b)
    if args.out is not None:
        check_place(Path(args.out))
    if args.dry_run:
        check_runs(args, a, b)
        return {"dry_run": True, "suite": a.suite, "prompts": len(a.rows)}
    found = compare_runs(args, a, b)
    first, backing = headline(found)
    result = {"headline": [f"{first}.", backing, judge_sentence(found)], **comparison_json(found)}
    if args.out is not None:
        Path(args.out).mkdir(parents=True, exist_ok=True)
        write_json(Path(args.out) / COMPARISON, result)
        write_tables(Path(args.out), found, a, b)
    shown = [comparison_table(found), terminal.drift_table(found), terminal.effects_table(found)]
    shown.append(terminal.moved_lines(found, a.prompts))
    return {**result, "out": args.out, "tables": shown, "notes": notes(found)}


def check_runs(args: argparse.Namespace, a: BenchRun, b: BenchRun) -> None:
    """For a dry run: raise what `compare_runs` would raise before it computes."""
    from diffdpo.benchmarks.pairing import check_labelers, check_same
    from diffdpo.commands.encoders import encoder_name

    check_same(a, b)
    check_labelers(args.labeled_by, a, b)
    encoder_name(args.encoder, a.suite)


def compare_runs(args: argparse.Namespace, a: BenchRun, b: BenchRun) -> Comparison:
    """The comparison that the arguments ask for."""
    from diffdpo.benchmarks.compare import compare
    from diffdpo.benchmarks.labelers import labelers_of
    from diffdpo.commands.encoders import open_encoder

    check_runs(args, a, b)
    labeled_by = args.labeled_by or labelers_of(a, b)
    encoder = open_encoder(args.encoder, a.suite, args.device)
    return compare(a, b, labeled_by=labeled_by, encoder=encoder)


def notes(found: Comparison) -> list[str]:
    """What a reader of the terminal is told below the figures."""
    labeled = any(measure.labeled for measure in found.scores)
    return [
        *found.warnings,
        *([] if labeled or not found.scores else [UNNAMED]),
        *([] if found.settings["encoder"] else [NOT_ENCODED]),
    ]


def show(result: dict[str, Any]) -> None:
    if result.get("dry_run"):
        print(f"would compare {result['prompts']} prompts of suite {result['suite']}")
        return
    print("\n".join(sentence for sentence in result["headline"] if sentence))
    for table in filter(None, result["tables"]):
        print(f"\n{table}")
    for note in result["notes"]:
        print(f"note: {note}")
    if result["out"] is not None:
        print(f"in full: {result['out']}")
