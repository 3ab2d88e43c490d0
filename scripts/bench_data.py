"""What a larger store costs a step: seconds and memory to get a batch ready, with ever more pairs behind it.

    python scripts/bench_data.py [--stored 1000 10000 100000] [--pairs 32] [--json FILE]

Pairs are of one small picture; latents and embeddings, of the shapes of the micro world, are made up. Measured is
the way from the disk to a batch and its draws, in the order of a training. Flat is what it should be.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from diffdpo.data.latents import LatentCache
from diffdpo.data.triplets import Pair, TripletStore, write_pairs
from diffdpo.objectives import draw
from diffdpo.training.order import Order

LATENT = (8, 8, 8)
EMBEDS = (16, 128)
PER_PART = 10_000
"""Pairs in a file of the store."""


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of a batch in a growing store.")
    parser.add_argument("--stored", type=int, nargs="+", default=[1000, 10_000, 100_000], metavar="N")
    parser.add_argument("--pairs", type=int, default=32, help="per batch (default: 32)")
    parser.add_argument("--batches", type=int, default=60, help="timed (default: 60)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(n, args.pairs, args.batches) for n in args.stored]
    print("| pairs stored | ms per pair: median (quartiles) | of it draws | own MB | building, s | opening, s |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        low, middle, high = row["ms_per_pair"]
        print(
            f"| {row['stored']:,} | {middle:.3f} ({low:.3f} to {high:.3f}) | {row['draws_ms_per_pair']:.3f} "
            f"| {row['own_mb']:.0f} | {row['building_seconds']:.0f} | {row['opening_seconds']:.1f} |"
        )
    if args.json:
        args.json.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=2) + "\n", encoding="utf-8")


def measure(n: int, pairs: int, batches: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        before, start = own_bytes(), time.process_time()
        cache = make_cache(Path(folder), n)
        building = time.process_time() - start
        start = time.process_time()
        for first in range(0, n, 16):
            cache.batch([first])  # every shard is opened once in a run
        opening = time.process_time() - start
        order = Order(n, pairs, 0)
        seconds, drawing = [], []
        for step in range(batches + 1):
            examples = order.at(step)
            start = time.process_time()
            batch = cache.batch([index for index, _ in examples])
            between = time.process_time()
            draw(0, batch.pair_ids, [epoch for _, epoch in examples], LATENT, 1000)
            seconds.append(time.process_time() - start)
            drawing.append(time.process_time() - between)
        each = [1000 * value / pairs for value in seconds[1:]]
        return {
            "stored": n,
            "ms_per_pair": statistics.quantiles(each, n=4),
            "draws_ms_per_pair": 1000 * statistics.median(drawing[1:]) / pairs,
            "own_mb": (own_bytes() - before) / 1e6,
            "building_seconds": building,
            "opening_seconds": opening,
        }


def make_cache(folder: Path, n: int) -> LatentCache:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    (folder / "store").mkdir()
    for part, first in enumerate(range(0, n, PER_PART)):
        numbers = range(first, min(first + PER_PART, n))
        write_pairs(folder / "store", part, [_pair(number, buffer.getvalue()) for number in numbers])
    return LatentCache.open_or_build(
        folder / "cache",
        TripletStore.open(folder / "store"),
        encode_images=_images,
        encode_prompts=lambda prompts: {"prompt_embeds": torch.ones(len(prompts), *EMBEDS)},
        encoder={"made": "up"},
        batch_size=32,
    )


def own_bytes() -> int:
    """Memory that is this process's own; pages of mapped files, which the system takes back when it likes, are not."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def _images(images: list[Image.Image]) -> tuple[Tensor, Tensor]:
    return torch.ones(len(images), *LATENT), torch.ones(len(images), *LATENT)


def _pair(number: int, picture: bytes) -> Pair:
    return Pair(
        caption=f"picture {number // 4}",
        jpg_0=picture,
        jpg_1=picture,
        label_0=1.0,
        label_1=0.0,
        pair_id=f"pair-{number}",
        prompt_id=f"prompt-{number // 4}",
        model_0="none",
        model_1="none",
        seed_0=2 * number,
        seed_1=2 * number + 1,
        labeler="none",
        margin=1.0,
    )


if __name__ == "__main__":
    main()
