"""How fast labelling is, against a loop over the plain pipeline, and what each optimisation brings.

    python scripts/bench_label.py                                             # the built-in model and judges, on a CPU
    python scripts/bench_label.py --model sd15 --device cuda --precision fp16 --prompts 32 --steps 50   # random weights
    python scripts/bench_label.py --without all                               # each optimisation left out in turn

Ours is what `diffdpo label` runs: it draws, scores, pairs and writes. The loop draws with the library's pipeline, by
the same scheduler, steps, guidance, size and seeds, and scores one image at a time; it pairs and writes nothing. The
ways take turns within one process. What overlaps shows on the wall's clock alone; on a CPU that others use too, the
processor's clock tells the rest better.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speed.changes import changes
from speed.clock import Times, median_ratio, take_turns
from speed.labeling import Bench, Ours, Plain
from speed.machine import machine

from diffdpo.devices import pick_dtype
from diffdpo.labeling.stages import Labeling
from diffdpo.models.sampling import Sampling

OURS = 2
"""Its place among the ways: after the plain loops, before those with a change."""


def main(argv: list[str] | None = None) -> dict[str, Any]:
    args = parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    bench = open_bench(args)
    ways = ways_of(bench, args)
    bench.warm_up()
    warmup = max(args.warmup, int(args.compile))  # compiling is no labelling
    times = take_turns(ways, args.device, rounds=args.rounds, steps=1, warmup=warmup, tell=tell)
    ours = times[OURS]
    rows = [row_of(way, bench, times[0], ours, own) for way, own in zip(ways, times, strict=True)]
    gap = max(pixel_gap(ways[0], way) for way in ways)
    show(rows, bench, gap)
    settings = {key: value for key, value in vars(args).items() if key != "json"}
    result = {"settings": settings, "machine": machine(args.device), "rows": rows, "largest_pixel_gap": gap}
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description="Speed of labelling against a loop over the plain pipeline.")
    add = found.add_argument
    add("--model", default="shapes", help="what `diffdpo label` takes, or random weights: tiny, sd15, sdxl")
    add("--scorers", nargs="+", default=["shapes-pickscore", "shapes-hpsv2"], metavar="NAME[=PATH]")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="of the model; scorers stay in float32")
    add("--prompts", type=int, default=4)
    add("--candidates", type=int, default=4)
    add("--steps", type=int, default=10)
    add("--guidance", type=float, default=1.5)
    add("--size", type=int, metavar="PX")
    add("--batch-size", type=int, default=8, help="of ours (default: 8)")
    add("--shard-size", type=int, help="prompts (default: half of them)")
    add("--without", nargs="*", default=[], metavar="WHAT", help="`all`, or parts of the names of what can be changed")
    add("--compile", action="store_true", help="ours with compiled blocks as well; it takes minutes to compile")
    add("--rounds", type=int, default=3)
    add("--warmup", type=int, default=0, help="labellings of each way in each round that are not timed (default: 0)")
    add("--threads", type=int, default=1, help="of the processor (default: 1)")
    add("--json", type=Path, metavar="FILE", help="write the figures there")
    return found


def open_bench(args: argparse.Namespace) -> Bench:
    return Bench(
        args.model,
        args.scorers,
        Labeling(candidates=args.candidates, shard_size=args.shard_size or max(1, args.prompts // 2)),
        Sampling(args.steps, args.guidance, args.size, args.batch_size),
        prompts=args.prompts,
        device=args.device,
        dtype=pick_dtype(args.precision, args.device),
    )


def ways_of(bench: Bench, args: argparse.Namespace) -> list[Plain | Ours]:
    """The plain loops; ours; ours with each change, one at a time."""
    wanted = {
        name: change
        for name, change in changes(bench, compiled=args.compile).items()
        if name == "compiled" or "all" in args.without or any(part in name for part in args.without)
    }
    plain = [Plain(bench, together=False), Plain(bench, together=True)]
    return [*plain, Ours(bench), *(Ours(bench, name, change) for name, change in wanted.items())]


def row_of(way: Plain | Ours, bench: Bench, slow: Times, ours: Times, own: Times) -> dict[str, Any]:
    """Ratios as (median, lowest, highest), over the loop of single images and over ours; below 1 is slower."""
    return {
        "way": way.name,
        "seconds": dataclasses.asdict(own),
        "images_per_second": bench.images / own.median("wall"),
        "gain": median_ratio(slow.wall, own.wall),
        "against_ours": median_ratio(ours.wall, own.wall),
        "gain_processor": median_ratio(slow.processor, own.processor),
        "against_ours_processor": median_ratio(ours.processor, own.processor),
    }


def pixel_gap(one: Plain | Ours, other: Plain | Ours) -> int:
    """The largest difference of any colour value, 0..255, between the images of two ways."""
    pairs = zip(one.images, other.images, strict=True)
    return max(int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max()) for a, b in pairs)


def show(rows: Sequence[dict[str, Any]], bench: Bench, gap: int) -> None:
    """As a table of Markdown, for the documentation."""
    columns = {
        "gain": "against the plain loop",
        "against_ours": "against ours",
        "gain_processor": "processor: against the plain loop",
        "against_ours_processor": "processor: against ours",
    }
    print(f"\n{bench.images} images; by time on the wall unless it says so; medians, and of the ratios the extremes\n")
    print(f"| way | images/s | {' | '.join(columns.values())} |")
    print("|" + "---|" * (2 + len(columns)))
    for row in rows:
        ratios = ("{:.2f} ({:.2f} to {:.2f})".format(*row[key]) for key in columns)
        print(f"| {row['way']} | {row['images_per_second']:.3g} | {' | '.join(ratios)} |")
    print(f"\nno colour value of any image differs by more than {gap} of 255 between the ways")


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
