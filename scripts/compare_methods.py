"""Tune the micro world's generator on the same pairs with every method: the table of docs/methods.md.

    python scripts/compare_methods.py --demo runs/demo --out runs/methods

`--demo` is what `diffdpo demo` left: its pairs are trained on and its run before tuning is compared with. It can be
stopped and started again. Each run is two ordinary commands; --jobs of them go on at once and share the cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from diffdpo.benchmarks.results import BenchRun
    from diffdpo.benchmarks.statistics import Estimate

ROOT = Path(__file__).parents[1]
JUDGE = "shapes-pickscore"
VARIANTS: dict[str, tuple[str, ...]] = {
    "dpo": ("shapes_dpo.yaml", "loss.winner_safeguard=null"),
    "dpo, winner safeguard": ("shapes_dpo.yaml",),
    "kto": ("shapes_kto.yaml",),
    "mapo": ("shapes_mapo.yaml",),
    "sft": ("shapes_sft.yaml",),
}
BASELINE = "dpo"
Floats = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the methods on the micro world.")
    parser.add_argument("--demo", type=Path, required=True, metavar="DIR", help="a finished `diffdpo demo`")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the runs go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="S", help="default: 0 1 2")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="runs at once (default: 2)")
    args = parser.parse_args()
    runs = [(variant, seed) for seed in args.seeds for variant in VARIANTS]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda run: tune_and_measure(run[0], run[1], args.demo, args.out, args.jobs), runs))
    for line in table(args.demo, args.out, args.seeds):
        print(line)


def tune_and_measure(variant: str, seed: int, demo: Path, out: Path, jobs: int) -> None:
    """One run; what is done already is found done by the commands themselves."""
    folder = place(out, variant, seed)
    config, *overrides = VARIANTS[variant]
    tuned, measured = folder / "tuned", folder / "after"
    data = [f"data.path={demo / 'pairs'}", f"output={tuned}", f"seed={seed}"]
    diffdpo(["train", str(ROOT / "configs" / config), *data, *overrides], folder, jobs)
    suite = ["bench", "shapes", "--batch-size", "48"]  # as the demo measures
    diffdpo([*suite, "--model", str(tuned / "model"), "--out", str(measured)], folder, jobs)


def place(out: Path, variant: str, seed: int) -> Path:
    return out / f"{variant.replace(', ', '-').replace(' ', '-')}-{seed}"


def diffdpo(arguments: Sequence[str], folder: Path, jobs: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    with (folder / "log.txt").open("a") as log:
        command = [sys.executable, "-m", "diffdpo", *arguments]
        done = subprocess.run(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": threads})
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit status {done.returncode}; see {folder / 'log.txt'}")


def table(demo: Path, out: Path, seeds: Sequence[int]) -> Iterator[str]:
    """Markdown. Every interval is over captions; a value of a method is first averaged over its seeds."""
    from diffdpo.benchmarks.results import read_run
    from diffdpo.benchmarks.statistics import mean_estimate, paired_difference

    before = read_run(demo / "before")
    runs = {name: [read_run(place(out, name, seed) / "after") for seed in seeds] for name in VARIANTS}
    exact = {name: np.mean([right(run) for run in found], axis=0) for name, found in runs.items()}
    seen = ", ".join(map(str, seeds))
    yield f"| method | exact after, seeds {seen} | change | win rate of {JUDGE} | against {BASELINE} |"
    yield "|---|---|---|---|---|"
    for name, found in runs.items():
        each = ", ".join(f"{right(run).mean():.1%}" for run in found)
        change = paired_difference(right(before), exact[name])
        wins = mean_estimate(np.mean([won(before, run) for run in found], axis=0))
        against = "-" if name == BASELINE else points(paired_difference(exact[BASELINE], exact[name]))
        yield f"| `{name}` | {each} | {points(change)} | {rate(wins)} | {against} |"


def right(run: BenchRun) -> Floats:
    return np.asarray(run.values("parts", "exact"), dtype=np.float64)


def won(before: BenchRun, after: BenchRun) -> Floats:
    """1 where the judge prefers the tuned picture, 0 where it prefers the other, 1/2 where neither."""
    a, b = (np.asarray(run.values("scores", JUDGE), dtype=np.float64) for run in (before, after))
    return np.asarray((1 + np.sign(b - a)) / 2, dtype=np.float64)


def points(found: Estimate) -> str:
    low, high = found.interval.low, found.interval.high
    return f"{100 * found.mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def rate(found: Estimate) -> str:
    return f"{found.mean:.1%} ({found.interval.low:.1%} to {found.interval.high:.1%})"


if __name__ == "__main__":
    main()
