"""How many pairs a training needs: ways to draw timesteps and noise and to weigh pairs, on the micro world.

    python scripts/bench_convergence.py --demo runs/demo --out runs/convergence

`--demo` is what `diffdpo demo` left; its pairs are trained on. For every way and seed the held-out accuracy is taken
every few steps, and told is after how many pairs it has reached a level for good measure: the median of three takings
that follow each other. With --exact the checkpoints of those steps are measured by the exact checker too, on held-out
captions. It can be stopped and started again; each run is an ordinary `diffdpo train`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
WAYS: dict[str, tuple[str, ...]] = {
    "uniform": (),
    "stratified": ("training.timesteps=stratified",),
    "antithetic": ("training.noise=antithetic",),
    "stratified, antithetic": ("training.timesteps=stratified", "training.noise=antithetic"),
    "weighed by margin": ("data.margin_weight=linear",),
}
BASE = "base"


def main() -> None:
    parser = argparse.ArgumentParser(description="Pairs needed to reach a held-out accuracy.")
    parser.add_argument("--demo", type=Path, required=True, metavar="DIR", help="a finished `diffdpo demo`")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the runs go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="S", help="default: 0 1 2")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), metavar="WAY")
    parser.add_argument("--steps", type=int, default=280, help="of each run (default: 280, as the demo's)")
    parser.add_argument("--every", type=int, default=10, metavar="N", help="steps between takings (default: 10)")
    parser.add_argument("--levels", type=float, nargs="+", default=[0.7, 0.75, 0.8], metavar="A")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at once (default: 1)")
    parser.add_argument("--exact", type=int, nargs="+", default=[], metavar="STEP", help="also draw from these")
    parser.add_argument("--captions", type=int, default=320, metavar="N", help="drawn then (default: 320, all)")
    parser.add_argument("--gains", type=float, nargs="+", default=[0.1, 0.15, 0.2], metavar="G", help="levels of those")
    parser.add_argument("--also", nargs="+", default=[], metavar="section.key=value", help="for all runs")
    args = parser.parse_args()
    with ThreadPoolExecutor(args.jobs) as pool:
        runs = [(way, seed) for seed in args.seeds for way in args.ways]
        list(pool.map(lambda run: train(run[0], run[1], args), runs))
        if args.exact:
            measure("shapes", args.out / BASE, args)
        list(pool.map(lambda run: draw(run[0], run[1], args), runs))
    for line in table(args):
        print(line)


def train(way: str, seed: int, args: argparse.Namespace) -> None:
    """One run; what is done already is found done by the commands themselves."""
    folder = place(args.out, way, seed)
    held_out = "data.held_out_share=0.25"  # a quarter of the prompts, so that a few pairs decide nothing
    keys = [
        f"data.path={args.demo / 'pairs'}",
        f"data.cache={args.out / 'cache'}",
        f"output={folder / 'tuned'}",
        f"seed={seed}",
        f"training.steps={args.steps}",
        f"training.evaluate_every={args.every}",
        *([] if not args.exact else _checkpoints(args)),
        held_out,
        *WAYS[way],
        *args.also,
    ]
    diffdpo(["train", str(ROOT / "configs" / "shapes_dpo.yaml"), *keys], folder, args.jobs)


def _checkpoints(args: argparse.Namespace) -> list[str]:
    """Keys that keep a checkpoint of every step to draw from."""
    every = math.gcd(*args.exact, args.steps)
    return [f"training.checkpoint_every={every}", f"training.keep_checkpoints={args.steps // every}"]


def draw(way: str, seed: int, args: argparse.Namespace) -> None:
    folder = place(args.out, way, seed)
    for step in args.exact:
        model = folder / f"model-{step}"
        if not model.exists():
            where = ["--step", str(step), "--out", str(model)]
            diffdpo(["export", str(folder / "tuned"), *where], folder, args.jobs)
        measure(str(model), drawn(folder, step), args)


def drawn(folder: Path, step: int) -> Path:
    return folder / f"drawn-{step}"


def measure(model: str, out: Path, args: argparse.Namespace) -> None:
    how = ["--batch-size", "32", "--limit", str(args.captions), "--out", str(out)]
    diffdpo(["bench", "shapes", "--model", model, *how], out.parent, args.jobs)


def place(out: Path, way: str, seed: int) -> Path:
    return out / f"{way.replace(', ', '-').replace(' ', '-')}-{seed}"


def diffdpo(command: Sequence[str], folder: Path, jobs: int) -> None:
    """Run a command, and say in the run's log what it says."""
    folder.mkdir(parents=True, exist_ok=True)
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": str(ROOT)}
    with open(folder / "log.txt", "a", encoding="utf-8") as log:
        subprocess.run([sys.executable, "-m", "diffdpo", *command], env=environment, stderr=log, stdout=log, check=True)
    print(f"{folder.name}: {command[0]} done", file=sys.stderr, flush=True)


def table(args: argparse.Namespace) -> list[str]:
    """Of every way: pairs until each level, seed by seed, and what it ended with."""
    head = [f"pairs until {level:.0%}" for level in args.levels] + ["accuracy at the end"]
    if args.exact:
        head += [*(f"pairs until +{gain:.0%} exact" for gain in args.gains), f"exact at step {args.exact[-1]}"]
    lines = [f"| way | {' | '.join(head)} |", "|---" * (1 + len(head)) + "|"]
    for way in args.ways:
        curves = [curve(place(args.out, way, seed) / "tuned" / "metrics.jsonl") for seed in args.seeds]
        batch = pairs_per_step(place(args.out, way, args.seeds[0]) / "tuned" / "config.json")
        cells = [_reached([first_reach(own, level) for own in curves], batch) for level in args.levels]
        cells.append(" ".join(f"{own[-1][1]:.1%}" for own in curves))
        if args.exact:
            before = exact(args.out / BASE)
            gains = [_gains(place(args.out, way, seed), before, args) for seed in args.seeds]
            cells += [_reached([first_reach(own, gain) for own in gains], batch) for gain in args.gains]
            cells.append(" ".join(f"{before + own[-1][1]:.1%}" for own in gains))
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return lines


def _gains(folder: Path, before: float, args: argparse.Namespace) -> list[tuple[int, float]]:
    """(step, gain of the exact checker over the base), without the last bits, since a level may be met to the dot."""
    return [(step, round(exact(drawn(folder, step)) - before, 9)) for step in args.exact]


def curve(metrics: Path) -> list[tuple[int, float]]:
    """(step, held-out accuracy), each the median of three takings that end there."""
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    taken = [(row["step"], row["eval/accuracy"]) for row in rows if "eval/accuracy" in row]
    return [
        (step, statistics.median(value for _, value in taken[max(0, place - 2) : place + 1]))
        for place, (step, _) in enumerate(taken)
    ]


def first_reach(curve: Sequence[tuple[int, float]], level: float) -> int | None:
    """The first step at which the curve is at least as high; None if it never is."""
    return next((step for step, value in curve if value >= level), None)


def pairs_per_step(config: Path) -> int:
    training = json.loads(config.read_text(encoding="utf-8"))["training"]
    return int(training["batch_size"] * training["accumulation"])


def exact(folder: Path) -> float:
    """Share of the held-out captions that are drawn right."""
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    return statistics.fmean(float(row["parts"]["exact"]) for row in rows)


def _reached(steps: Sequence[int | None], batch: int) -> str:
    told = " ".join("never" if step is None else f"{step * batch:,}" for step in steps)
    known = [step for step in steps if step is not None]
    middle = f"{statistics.median(known) * batch:,.0f}" if len(known) == len(steps) else "-"
    return f"{middle} ({told})"


if __name__ == "__main__":
    main()
