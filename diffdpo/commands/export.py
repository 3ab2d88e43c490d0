"""`diffdpo export`: a training run's newest checkpoint as what other programs and `scorers.load` open."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from diffdpo.errors import UserError
from diffdpo.models.export.form import DTYPES, KINDS, Form

HELP = "write a run's weights as a diffusers folder, a LoRA, a single file or a scorer, with a model card"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="folder of a training run")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to make; files in it take its name")
    parser.add_argument(
        "--format",
        choices=KINDS,
        metavar="FORM",
        help="diffusers: a folder (the default); kohya: a LoRA in one file, for ComfyUI and A1111; "
        "single-file: a whole model in one file",
    )
    parser.add_argument("--step", type=int, metavar="N", help="of the checkpoint of this step (default: the newest)")
    parser.add_argument("--merge", action="store_true", help="add the LoRA to its base and write the whole model")
    parser.add_argument("--dtype", choices=DTYPES, metavar="D", help="store weights as fp16, bf16 or fp32 (default)")
    parser.add_argument(
        "--report", metavar="FOLDER", help="what `compare --out`, `report` or `bench` left, for the model card"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, write nothing")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from diffdpo.runs import whole_folder

    out = Path(args.out)
    if out.suffix == ".safetensors":
        raise UserError(f"--out {out}: name a folder, say {out.with_suffix('')}; the file in it will be {out.name}")
    if args.dry_run:
        step = _export(args, out)
    else:
        with whole_folder(out) as unfinished:
            step = _export(args, unfinished)
    return {"dry_run": args.dry_run, "exported": str(out), "step": step}


def show(result: dict[str, Any]) -> None:
    verb = "would write" if result["dry_run"] else "wrote"
    print(f"{verb} the weights of step {result['step']} to {result['exported']}")


def _export(args: argparse.Namespace, out: Path) -> int:
    """Write the run's weights to `out`. Returns the step that they are from."""
    from diffdpo.training.folder import method_of, modality_of

    folder = Path(args.run)
    if modality_of(folder) == "text":
        from diffdpo.training.text.runner import export_newest_text

        _refuse_forms(args, folder, "a language model")
        return export_newest_text(folder, out, dry_run=args.dry_run)[1]
    if method_of(folder) == "scorer":
        return _export_judge(args, folder, out)
    from diffdpo.training.image.export import export_newest

    evaluation: list[str] = []
    if args.report:
        from diffdpo.benchmarks import markdown

        evaluation = markdown.evaluation(Path(args.report))
    form = Form(args.format or "diffusers", args.merge, args.dtype, Path(args.out).absolute().name)
    return export_newest(folder, out, form, step=args.step, evaluation=evaluation, dry_run=args.dry_run)[1]


def _export_judge(args: argparse.Namespace, folder: Path, out: Path) -> int:
    from diffdpo.commands.train import open_judge
    from diffdpo.training.judge.runner import export_newest_judge

    _refuse_forms(args, folder, "a scorer")
    return export_newest_judge(folder, out, open_judge, dry_run=args.dry_run)[1]


def _refuse_forms(args: argparse.Namespace, folder: Path, kind: str) -> None:
    if args.step is not None:
        raise UserError(f"--step {args.step}: {folder} is the run of {kind}, whose newest checkpoint alone is exported")
    given = {"--format": args.format, "--merge": args.merge, "--dtype": args.dtype, "--report": args.report}
    for option, value in given.items():
        if value:
            raise UserError(f"{option}: {folder} is the run of {kind}, which has one form only; leave it out")
