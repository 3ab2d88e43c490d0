"""`diffdpo score`: score images that are there already."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from pathlib import Path
from typing import Any

from diffdpo.errors import UserError

HELP = "score images with one or more scorers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scorer",
        action="append",
        required=True,
        metavar="S",
        help="NAME, or NAME=PATH for local weights; give it again for more scorers",
    )
    parser.add_argument("--dir", metavar="DIR", help="images named by the prompt's position: 00000.png, 00001.jpg ...")
    parser.add_argument("--prompts", metavar="FILE", help="the prompts of --dir (default: DIR/prompts.jsonl)")
    parser.add_argument(
        "--table",
        metavar="FILE",
        help="instead: .csv, .tsv, .jsonl or .parquet with the columns prompt and path",
    )
    parser.add_argument("--out", metavar="FILE", help="write a CSV file (default: to standard output)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps (default: the GPU if there is one)")
    parser.add_argument("--dry-run", action="store_true", help="check everything, score nothing")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from diffdpo.labeling.score import load_scorers, parse_names

    prompts, paths = _inputs(args)
    if args.dry_run:
        return {"dry_run": True, "images": len(paths), "scorers": list(parse_names(args.scorer))}
    from diffdpo.devices import pick_device
    from diffdpo.labeling.score import means, score_files
    from diffdpo.runs import write_bytes

    judges = load_scorers(args.scorer, pick_device(args.device))
    scores = score_files(judges, prompts, paths)
    names = [judge.name for judge in judges]
    rows = [
        {"path": str(path), "prompt": prompt, **dict(zip(names, column, strict=True))}
        for path, prompt, column in zip(paths, prompts, scores.T.tolist(), strict=True)
    ]
    result: dict[str, Any] = {"images": len(rows), "scorers": means(judges, scores), "out": args.out}
    if args.out is None:
        return {**result, "rows": rows}
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    write_bytes(args.out, _csv(rows).encode())
    return result


def show(result: dict[str, Any]) -> None:
    if result.get("dry_run"):
        print(f"would score {result['images']} images with {', '.join(result['scorers'])}")
    elif result["out"] is None:
        sys.stdout.write(_csv(result["rows"]))
    else:
        for name, scores in result["scorers"].items():
            spread = f"(standard deviation {scores['std']:.4g})"
            print(f"{name}: mean {scores['mean']:.4g} {spread} of {result['images']} images; {scores['scale']}")
        print(f"scores in {result['out']}")


def _inputs(args: argparse.Namespace) -> tuple[list[str], list[Path]]:
    if (args.dir is None) == (args.table is None):
        raise UserError("score needs either --dir or --table")
    if args.table is None:
        return _folder(Path(args.dir), Path(args.prompts or Path(args.dir) / "prompts.jsonl"))
    if args.prompts is not None:
        raise UserError("--prompts goes with --dir; a --table has its own column of prompts")
    return _table(Path(args.table))


def _folder(folder: Path, file: Path) -> tuple[list[str], list[Path]]:
    """Every prompt has its image and every image its prompt: a mean over half of them misleads."""
    from diffdpo.data.prompts import read_prompts

    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    prompts = [prompt.text for prompt in read_prompts(file, keep_duplicates=True)]
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp") and path.stem.isdecimal():
            other = found.setdefault(int(path.stem), path)
            if other != path:
                raise UserError(f"{path}: {other.name} is there as well; which one is image {int(path.stem)}?")
    missing = [index for index in range(len(prompts)) if index not in found]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{folder}: no image {missing[0]:05d}{more}; {file} has {len(prompts)} prompts")
    if len(found) > len(prompts):
        raise UserError(f"{found[max(found)]}: no such prompt; {file} has {len(prompts)}")
    return prompts, [found[index] for index in range(len(prompts))]


def _table(file: Path) -> tuple[list[str], list[Path]]:
    """Paths are relative to the table."""
    from diffdpo.data.prompts import COLUMNS, read_table

    rows = read_table(file, {"prompt": COLUMNS, "path": ("path",)})
    paths = [file.parent / row["path"] for row in rows]
    for path in paths:
        if not path.is_file():
            raise UserError(f"{file}: the image {path} is not there")
    return [row["prompt"] for row in rows], paths


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
