"""`diffdpo export`: a training run's newest checkpoint as what diffusers, transformers or `scorers.load` opens."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HELP = "write a run's weights as a diffusers folder, a LoRA file or a scorer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="folder of a training run")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to make")
    parser.add_argument("--dry-run", action="store_true", help="check everything, write nothing")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from diffdpo.runs import whole_folder

    folder, out = Path(args.run), Path(args.out)
    if args.dry_run:
        step = _export(folder, out, dry_run=True)
    else:
        with whole_folder(out) as unfinished:
            step = _export(folder, unfinished)
    return {"dry_run": args.dry_run, "exported": str(out), "step": step}


def show(result: dict[str, Any]) -> None:
    verb = "would write" if result["dry_run"] else "wrote"
    print(f"{verb} the weights of step {result['step']} to {result['exported']}")


def _export(folder: Path, out: Path, *, dry_run: bool = False) -> int:
    """Write the run's weights to `out`. Returns the step that they are from."""
    from diffdpo.training.folder import method_of, modality_of

    if modality_of(folder) == "text":
        from diffdpo.training.text.runner import export_newest_text

        return export_newest_text(folder, out, dry_run=dry_run)[1]
    if method_of(folder) == "scorer":
        from diffdpo.commands.train import open_judge
        from diffdpo.training.judge_runner import export_newest_judge

        return export_newest_judge(folder, out, open_judge, dry_run=dry_run)[1]
    from diffdpo.training.runner import export_newest

    return export_newest(folder, out, dry_run=dry_run)[1]
