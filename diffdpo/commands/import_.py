"""`diffdpo import`: published preference data to a triplet store."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffdpo.errors import UserError

if TYPE_CHECKING:
    from diffdpo.data.published.rows import Source

HELP = "make a triplet store of published preferences: Pick-a-Pic or HPDv2"

FORMATS = ("pickapic", "hpdv2")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "format", choices=FORMATS, help="pickapic: Parquet files of v1 or v2; hpdv2: train.json or test.json and images"
    )
    add("path", metavar="PATH", help="the folder as published, or one file of it")
    add("--out", required=True, metavar="STORE", help="the folder of the triplet store")
    add("--split", metavar="NAME", help="which split (default: train where there are several)")
    add("--images", metavar="DIR", help="of hpdv2: where image paths start from (default: train/ beside train.json)")
    add("--limit", type=int, metavar="N", help="take the first N rows of the published data only")
    add(
        "--on-error",
        choices=("stop", "skip"),
        default="stop",
        help="a row with an image or label that cannot be used stops the import (default), or is left out and named",
    )
    add("--dry-run", action="store_true", help="check the files and the output folder, import nothing")


def run(args: argparse.Namespace) -> dict[str, Any]:
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit: at least 1 row, not {args.limit}")
    source = _open(args)
    if args.dry_run:
        return _plan(args, source)
    from diffdpo.data.published.importing import import_pairs

    return {"out": args.out, **_what(source), **import_pairs(source, args.out, args.on_error)}


def show(result: dict[str, Any]) -> None:
    what = f"{result['format']} {result['split']}".strip()
    if result.get("dry_run"):
        print(f"would import {result['rows']} rows of {what} in {result['parts']} parts")
        print(f"into {result['out']} ({result['state']}); {_spell_disk(result)}")
        return
    print(f"{result['pairs']} pairs ({result['ties']} ties) of {result['rows']} rows of {what} in {result['out']}")
    if left_out := result["unlabelled"] + result["unusable"]:
        from diffdpo.data.published.importing import LEFT_OUT

        unfit = f"{result['unlabelled']} without a label, {result['unusable']} that cannot be used"
        print(f"left out {left_out} rows ({unfit}); all are named in {Path(result['out']) / LEFT_OUT}")
        for row in result["unusable_rows"]:
            print(f"  {row}")


def _open(args: argparse.Namespace) -> Source:
    if args.format == "hpdv2":
        from diffdpo.data.published.hpdv2 import open_hpdv2

        return open_hpdv2(args.path, args.split, args.limit, args.images)
    if args.images is not None:
        raise UserError("--images goes with hpdv2; Pick-a-Pic has its images in its Parquet files")
    from diffdpo.data.published.pickapic import open_pickapic

    return open_pickapic(args.path, args.split, args.limit)


def _what(source: Source) -> dict[str, Any]:
    return {name: source.settings[name] for name in ("format", "split")}


def _plan(args: argparse.Namespace, source: Source) -> dict[str, Any]:
    from diffdpo.runs import check_claim

    state = check_claim(args.out, "import", source.settings)
    there = next(place for place in (Path(args.out).absolute(), *Path(args.out).absolute().parents) if place.exists())
    return {
        "dry_run": True,
        "out": args.out,
        "state": state,
        **_what(source),
        "rows": sum(source.sizes),
        "parts": len(source.sizes),
        "disk_gb": None if source.bytes is None else source.bytes / 1e9,
        "free_gb": shutil.disk_usage(there).free / 1e9,
    }


def _spell_disk(result: dict[str, Any]) -> str:
    free = f"{result['free_gb']:.3g} GB are free there"
    if result["disk_gb"] is None:
        return f"takes as much room as the images of all pairs; {free}"
    return f"takes about {result['disk_gb']:.2g} GB; {free}"
