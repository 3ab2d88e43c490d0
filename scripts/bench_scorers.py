"""How fast scorers are, and how far half precision moves their scores.

    python scripts/bench_scorers.py [--json FILE]               # `score` against a loop over single images
    python scripts/bench_scorers.py --precision [--json FILE]   # fp16 and bf16 against float32

Runs on the CPU with the tiny judges of the micro world. Both ways of scoring alternate within one run, so that a
machine that grows slower meanwhile slows both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed and half-precision error of scorers.")
    parser.add_argument("--scorers", nargs="+", default=["shapes-pickscore", "shapes-hpsv2"], metavar="NAME")
    parser.add_argument("--images", type=int, default=256, help="pairs of prompt and image per round")
    parser.add_argument(
        "--size", type=int, default=32, help="edge of the images, pixels (default: 32, the judges' own)"
    )
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=None, help="threads that prepare images (default: one per CPU)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--precision", action="store_true", help="measure fp16 and bf16 instead of the speed")
    parser.add_argument("--captions", type=int, default=500, help="of --precision, with 4 images each")
    args = parser.parse_args()
    rows = [
        row for name in args.scorers for row in (precision(name, args) if args.precision else [measure(name, args)])
    ]
    (show_precision if args.precision else show_speed)(rows)
    if args.json:
        settings = {key: value for key, value in vars(args).items() if key != "json"}
        args.json.write_text(json.dumps({"settings": settings, "scorers": rows}, indent=2) + "\n", encoding="utf-8")


def show_speed(rows: list[dict[str, Any]]) -> None:
    print(f"{'scorer':<18} {'batched':>12} {'one by one':>12} {'ratio':>7} {'ratios':>15} {'largest gap':>12}")
    for row in rows:
        spread = f"{min(row['ratios']):.2f} to {max(row['ratios']):.2f}"
        print(
            f"{row['scorer']:<18} {row['batched']:>8.0f} /s {row['single']:>10.0f} /s "
            f"{row['ratio']:>7.2f} {spread:>15} {row['largest_gap']:>12.1e}"
        )


def show_precision(rows: list[dict[str, Any]]) -> None:
    """As a table of Markdown, for the documentation."""
    print("| scorer | dtype | largest deviation | mean deviation | spread within a prompt | pairs in the same order |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        numbers = " | ".join(f"{row[key]:.2g}" for key in ("largest", "mean", "spread"))
        print(f"| `{row['scorer']}` | `{row['dtype']}` | {numbers} | {row['same_order']:.2%} of {row['pairs']} |")


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Images per second of both ways (medians over the rounds), the median of the ratios, and the largest gap."""
    import torch

    import scorers

    scorer: Any = scorers.load(name, batch_size=args.batch_size, workers=args.workers)
    prompts, images = pairs(args.images, args.size)
    ways: list[Callable[[], torch.Tensor]] = [
        lambda: scorer.score(prompts, images),
        lambda: one_by_one(scorer, prompts, images),
    ]
    gap = (ways[0]() - ways[1]()).abs().max().item()  # and both are warm
    seconds: list[list[float]] = [[], []]
    for number in range(args.rounds):
        for index in (0, 1) if number % 2 else (1, 0):
            scorer._cache.clear()  # or `score` would find every prompt encoded
            start = time.perf_counter()
            ways[index]()
            seconds[index].append(time.perf_counter() - start)
        print(f"{name}: round {number + 1} of {args.rounds}", file=sys.stderr)
    ratios = [single / batched for batched, single in zip(*seconds, strict=True)]
    batched, single = (args.images / statistics.median(times) for times in seconds)
    return {
        "scorer": name,
        "batched": batched,
        "single": single,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "largest_gap": gap,
    }


def precision(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Per dtype: deviations from float32 in units of the score, and the share of a prompt's pairs ordered the same.

    `spread` is what to compare them with: the mean over prompts of the standard deviation of a prompt's scores.
    """
    import numpy as np

    import scorers
    from scorers.combine import preference_agreement

    prompts, images = drawings(args.captions)
    options = {"batch_size": args.batch_size, "workers": args.workers}
    exact = scorers.load(name, **options).score(prompts, images).double().numpy()
    rows = []
    for dtype in ("fp16", "bf16"):
        scores = scorers.load(name, dtype=dtype, **options).score(prompts, images).double().numpy()
        deviation = np.abs(scores - exact)
        rows.append(
            {
                "scorer": name,
                "dtype": dtype,
                "largest": float(deviation.max()),
                "mean": float(deviation.mean()),
                "spread": float(exact.reshape(args.captions, -1).std(axis=1).mean()),
                "same_order": float(preference_agreement(np.stack([exact, scores]), prompts)[0, 1]),
                "pairs": 6 * args.captions,
            }
        )
        print(f"{name}: {dtype} done", file=sys.stderr)
    return rows


def drawings(captions: int) -> tuple[list[str], list[Any]]:
    """Captions of the micro world that no judge was trained on, each with two faultless and two flawed pictures."""
    import numpy as np

    from diffdpo.shapes.damage import damage
    from diffdpo.shapes.render import render, to_image
    from diffdpo.shapes.scene import parse_caption, sample_captions

    random = np.random.default_rng(0)
    texts = sample_captions(captions, seed=0, held_out=True)
    images = [
        to_image(draw(parse_caption(text), random)) for text in texts for draw in (render, render, damage, damage)
    ]
    return [text for text in texts for _ in range(4)], images


def pairs(count: int, size: int) -> tuple[list[str], list[Any]]:
    """Different prompts and noise images: what a picture shows does not change the work."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(count)]
    return [f"a red circle left of {number} blue squares" for number in range(count)], images


def one_by_one(scorer: Any, prompts: list[str], images: list[Any]) -> Any:
    """The loop that one would write first: no batches, no threads, no memory of prompts. Scores [N]."""
    import torch

    from scorers.images import to_rgb

    found = []
    with torch.inference_mode():
        for prompt, image in zip(prompts, images, strict=True):
            features = scorer.features(scorer.prepare(to_rgb(image))[None].to(scorer.device))
            found.append(scorer.compare(features, scorer.encode([prompt])))
    return torch.cat(found)


if __name__ == "__main__":
    main()
