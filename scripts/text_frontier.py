"""Reward against KL of every way to tune the text world's model: the table and the plot of docs/text.md.

    python scripts/text_frontier.py --out runs/frontier

One SFT model and one reward model; from these PPO, PPO-ptx and DPO at several strengths of their tie to the SFT model,
each with several seeds, and the best of n. Every run is an ordinary command and a folder of its own. It can be stopped
and started again: what is done is found done. --jobs runs go on at once and share the cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from diffdpo.benchmarks.frontier.points import Measured

ROOT = Path(__file__).parents[1]
STRENGTHS: dict[str, tuple[str, tuple[float, ...]]] = {
    "ppo": ("loss.kl_coef", (0.1, 0.2, 0.4)),
    "ppo_ptx": ("loss.kl_coef", (0.1, 0.2, 0.4)),
    "dpo": ("loss.beta", (0.05, 0.1, 0.3, 1.0)),
}
"""Of each recipe `words_<name>.yaml`, the key that is varied and its values."""
BEST_OF = (2, 4, 8, 16)


class Tuning(NamedTuple):
    """A run of the frontier."""

    recipe: str
    value: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.recipe}-{self.value:g}-{self.seed}"

    @property
    def setting(self) -> str:
        return f"{STRENGTHS[self.recipe][0].removeprefix('loss.')} {self.value:g}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the reward-KL frontier of the text world.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the runs go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="S", help="default: 0 1 2")
    parser.add_argument("--recipes", nargs="+", choices=STRENGTHS, default=list(STRENGTHS), help="just these")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="runs at once (default: 2)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="for every run: training.steps=20")
    args = parser.parse_args()
    write_data(args.out / "data")
    data = args.out / "data"
    tune(args.out, "sft", data / "demonstrations" / "train.jsonl", [], args.jobs)
    tune(args.out, "reward", data / "rankings" / "train.jsonl", [start(args.out)], args.jobs)
    from diffdpo.commands.demo_text import rank_answers

    diffdpo(
        rank_answers(args.out / "sft" / "model", args.out / "data", ranked(args.out), 0), args.out / "ranked.log", 1
    )
    tunings = [
        Tuning(recipe, value, seed) for seed in args.seeds for recipe in args.recipes for value in STRENGTHS[recipe][1]
    ]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda one: run(args.out, one, args.set, args.jobs), tunings))
    for line in measured(args.out, tunings, args.seeds):
        print(line)


def write_data(folder: Path) -> None:
    from diffdpo.commands.demo_text import write_data

    write_data(folder, seed=0)


def ranked(out: Path) -> Path:
    """Answers of the SFT model, which DPO learns from."""
    return out / "ranked"


def start(out: Path) -> str:
    return f"model.path={out / 'sft' / 'model'}"


def run(out: Path, one: Tuning, overrides: Sequence[str], jobs: int) -> None:
    """Tune; what is done already the command itself finds done."""
    further = [start(out), f"seed={one.seed}", f"{STRENGTHS[one.recipe][0]}={one.value}", *overrides]
    if one.recipe != "dpo":
        further.append(f"reward.source={out / 'reward' / 'reward'}")
    if one.recipe == "ppo_ptx":
        further.append(f"ptx.path={out / 'data' / 'texts' / 'train.jsonl'}")
    data = ranked(out) if one.recipe == "dpo" else out / "data" / "prompts" / "train.jsonl"
    tune(out, one.name, data, further, jobs, recipe=one.recipe)


def tune(out: Path, name: str, data: Path, further: Sequence[str], jobs: int, recipe: str | None = None) -> None:
    config = ROOT / "configs" / f"words_{recipe or name}.yaml"
    given = [f"data.path={data}", f"output={out / name}"]
    diffdpo(["train", str(config), *given, *further], out / f"{name}.log", jobs)


def diffdpo(arguments: Sequence[str], log: Path, jobs: int) -> None:
    command = [sys.executable, "-m", "diffdpo", *arguments]
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    with log.open("a") as lines:
        done = subprocess.run(command, stdout=lines, stderr=lines, env={**os.environ, "OMP_NUM_THREADS": threads})
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit status {done.returncode}; see {log}")


def measured(out: Path, tunings: Sequence[Tuning], seeds: Sequence[int]) -> Iterator[str]:
    """Measure what is not measured yet, write `frontier.*`, and tell."""
    from diffdpo.benchmarks.frontier.points import gain, markdown, spelled, tax
    from diffdpo.commands.frontier import write_frontier
    from diffdpo.commands.text_world import best_of_n, measure

    sft, folder = str(out / "sft" / "model"), out / "measured"
    runs: list[Measured] = [
        measure(model, sft, folder / f"{name}-{seed}.json", method=name, setting="", seed=seed)
        for name, model in (("base", "words"), ("sft", sft))
        for seed in seeds
    ]
    for seed in seeds:
        runs += best_of_n(sft, str(out / "reward" / "reward"), BEST_OF, folder, seed=seed)
    for one in tunings:
        model, file = str(out / one.name / "model"), folder / f"{one.name}.json"
        method = one.recipe.replace("_", "-")
        runs.append(measure(model, sft, file, method=method, setting=one.setting, seed=one.seed))
    yield from markdown(write_frontier(out, runs))
    untuned = [run for run in runs if run.method == "sft"]
    for method, setting in dict.fromkeys(
        (run.method, run.setting) for run in runs if run.method not in ("base", "sft")
    ):
        own = [run for run in runs if (run.method, run.setting) == (method, setting)]
        yield f"reward of {method} {setting} less that of SFT: {spelled(gain(untuned, own))}"
    for setting in dict.fromkeys(run.setting for run in runs if run.method == "ppo"):
        plain, ptx = (
            [run for run in runs if (run.method, run.setting) == (method, setting)] for method in ("ppo", "ppo-ptx")
        )
        if ptx:
            yield f"perplexity of plain text, PPO-ptx over PPO at {setting}: {spelled(tax(plain, ptx), 3)}"


if __name__ == "__main__":
    main()
