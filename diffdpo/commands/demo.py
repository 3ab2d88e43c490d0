"""`diffdpo demo`: the whole loop on the built-in micro world, as the five ordinary commands that it prints.

`diffdpo demo text` is the text world's, see `demo_text`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import time
from pathlib import Path
from typing import Any

from diffdpo.errors import UserError
from diffdpo.progress import say
from diffdpo.recipes import shipped_config
from diffdpo.runs import check_claim, claimed, write_bytes
from diffdpo.shapes.weights import GUIDANCE, STEPS

HELP = "tune and measure on the built-in micro world, or with `text` on the text world, in minutes on a CPU"

PROMPTS = 300
CANDIDATES = 6
BATCH = "48"
LABELER = "shapes-hpsv2"
JUDGE = "shapes-pickscore"
MAX_SEED = 2**31
"""Of a training run."""
FOLDERS = {"images": "runs/demo", "text": "runs/demo-text"}
"""Of each world's demo."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("world", nargs="?", choices=tuple(FOLDERS), default="images", help="default: images")
    parser.add_argument("--out", metavar="DIR", help="default: runs/demo, of `text` runs/demo-text")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of labelling and training (default: 0)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, start nothing")


def run(args: argparse.Namespace) -> dict[str, Any]:
    began = time.monotonic()
    out = Path(args.out or FOLDERS[args.world])
    if not 0 <= args.seed <= MAX_SEED:
        raise UserError(f"--seed {args.seed}: must be between 0 and {MAX_SEED}")
    if args.world == "text":
        from diffdpo.commands.demo_text import run_text_demo

        return run_text_demo(out, args.seed, dry_run=args.dry_run)
    steps = commands(out, args.seed)
    settings = {"seed": args.seed, "prompts": PROMPTS, "candidates": CANDIDATES}
    if args.dry_run:
        check_claim(out, "demo", settings)
        return {"dry_run": True, "commands": [shlex.join(["diffdpo", *step]) for step in steps]}
    with claimed(out, "demo", settings, products=("prompts.txt",)) as run:
        write_prompts(out / "prompts.txt", args.seed)
        results = [call(number, len(steps), step) for number, step in enumerate(steps, 1)]
        figures = _figures(out)
        run.finish(figures)
    return {**figures, "seconds": round(time.monotonic() - began, 1), "report": results[-1]["report"]}


def show(result: dict[str, Any]) -> None:
    if result.get("dry_run"):
        print("\n".join(result["commands"]))
        return
    if result.get("world") == "text":
        from diffdpo.commands import demo_text

        demo_text.show(result)
        return
    gain = result["exact_after"] - result["exact_before"]
    low, high = result["exact_gain_ci"]
    judge_low, judge_high = result["judge_win_rate_ci"]
    print(f"""
{result["captions"]} held-out captions, same seeds          before    after     change (95% interval)
all parts of the caption right            {result["exact_before"]:7.1%}  {result["exact_after"]:7.1%}    \
{100 * gain:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})
win rate by the judge that did not label      -    {result["judge_win_rate"]:7.1%}    \
({judge_low:.1%} to {judge_high:.1%}; 50% is no change)

report: {result["report"]}   ({result["seconds"]:.0f} s)""")


def commands(out: Path, seed: int) -> list[list[str]]:
    """The command lines of the loop."""
    pairs, tuned, before, after = (str(out / name) for name in ("pairs", "dpo", "before", "after"))
    batch = ["--batch-size", BATCH]
    # Drawn as they will be measured; half precision is enough to tell best from worst.
    drawn = ["--steps", str(STEPS), "--guidance", str(GUIDANCE), "--precision", "bf16"]
    how = ["--candidates", str(CANDIDATES), *drawn, *batch, "--seed", str(seed)]
    prompts = ["--prompts", str(out / "prompts.txt")]
    return [
        ["label", "--model", "shapes", *prompts, "--scorer", LABELER, *how, "--out", pairs],
        ["train", shipped_config("shapes_dpo.yaml"), f"data.path={pairs}", f"output={tuned}", f"seed={seed}"],
        ["bench", "shapes", "--model", "shapes", *batch, "--out", before],
        ["bench", "shapes", "--model", str(out / "dpo" / "model"), *batch, "--out", after],
        ["report", before, after, "--training", tuned, "--labeled-by", LABELER, "--out", str(out / "report")],
    ]


def write_prompts(path: Path, seed: int) -> None:
    """Captions of training combinations, none twice."""
    from diffdpo.shapes.scene import sample_captions

    captions = sample_captions(PROMPTS, seed=seed, held_out=False)
    write_bytes(path, ("\n".join(captions) + "\n").encode())


def call(number: int, of: int, argv: list[str]) -> dict[str, Any]:
    """Run one command line in this process."""
    say(f"\n[{number}/{of}] {shlex.join(['diffdpo', *argv])}")
    module = importlib.import_module(f"diffdpo.commands.{argv[0]}")
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    result: dict[str, Any] = module.run(parser.parse_args(argv[1:]))
    return result


def _figures(out: Path) -> dict[str, Any]:
    """The figures of the closing table, read from the report's own numbers."""
    comparison = json.loads((out / "report" / "report.json").read_text(encoding="utf-8"))["comparison"]
    exact = comparison["parts"]["exact"]["contrast"]
    judge = comparison["scores"][JUDGE]["contrast"]["wins"]["rate"]
    return {
        "exact_before": exact["a"]["mean"],
        "exact_after": exact["b"]["mean"],
        "exact_gain_ci": _bounds(exact["difference"]),
        "judge_win_rate": judge["mean"],
        "judge_win_rate_ci": _bounds(judge),
        "captions": comparison["prompts"],
    }


def _bounds(estimate: dict[str, Any]) -> list[float]:
    return [estimate["interval"]["low"], estimate["interval"]["high"]]
