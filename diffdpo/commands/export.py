"""`diffdpo export`: a training run's result, or one of its checkpoints, as what diffusers opens."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HELP = "write a run's weights as a diffusers folder or a LoRA file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="folder of a training run")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to make")
    parser.add_argument("--dry-run", action="store_true", help="check everything, write nothing")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from diffdpo.training.runner import export_newest

    out, step = export_newest(Path(args.run), Path(args.out), dry_run=args.dry_run)
    return {"dry_run": args.dry_run, "exported": str(out), "step": step}


def show(result: dict[str, Any]) -> None:
    verb = "would write" if result["dry_run"] else "wrote"
    print(f"{verb} the weights of step {result['step']} to {result['exported']}")
