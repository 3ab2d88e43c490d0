"""`diffdpo demo text`: InstructGPT's steps and DPO on the text world, with the shipped recipes, and their frontier."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

from diffdpo.progress import say
from diffdpo.recipes import shipped_config
from diffdpo.runs import check_claim, claimed

SIZES = {"demonstrations": 4000, "rankings": 10800, "prompts": 2000, "texts": 4000}
"""Training records of each kind."""
HELD_OUT = 200
BEST_OF = (4, 16)
ANSWERS = 4
"""Of the SFT model to each prompt, which DPO learns from, ranked by the exact reward."""
METHODS = ("ppo", "ppo_ptx", "dpo")


def run_text_demo(out: Path, seed: int, *, dry_run: bool) -> dict[str, Any]:
    """Make the data, tune, measure, plot; what is done already is found done."""
    from diffdpo.commands.demo import call

    began = time.monotonic()
    steps = commands(out, seed)
    settings = {"world": "text", "seed": seed, "sizes": SIZES}
    if dry_run:
        check_claim(out, "demo", settings)
        return {"dry_run": True, "commands": [shlex.join(["diffdpo", *step]) for step in steps]}
    with claimed(out, "demo", settings, products=("data/*/*.jsonl", "frontier.*")) as run:
        write_data(out / "data", seed)
        for number, step in enumerate(steps, 1):
            call(number, len(steps), step)
        say("\nmeasuring on held-out prompts and texts")
        figures = {"points": _measured(out, seed)}
        run.finish(figures)
    return {
        "world": "text",
        **figures,
        "seconds": round(time.monotonic() - began, 1),
        "plot": str(out / "frontier.svg"),
    }


def show(result: dict[str, Any]) -> None:
    print(f"\n{'':12}{'':8}  exact reward              KL to SFT   perplexity of plain text")
    for point in result["points"]:
        reward = f"{point['reward']:6.2f} ({point['reward_low']:.2f} to {point['reward_high']:.2f})"
        perplexity = "" if point["perplexity"] == "" else f"{point['perplexity']:11.3f}"
        print(f"{point['method']:12}{point['setting']:8}  {reward:24}  {point['kl']:9.2f}   {perplexity}")
    print(f"\nplot: {result['plot']}   ({result['seconds']:.0f} s)")


def commands(out: Path, seed: int) -> list[list[str]]:
    """The command lines."""
    sft, reward = out / "sft" / "model", out / "reward" / "reward"

    def train(name: str, data: str, *further: str) -> list[str]:
        given = [f"data.path={out / 'data' / data / 'train.jsonl'}", f"output={out / name}", f"seed={seed}"]
        return ["train", shipped_config(f"words_{name}.yaml"), *given, *further]

    start, judged = f"model.path={sft}", f"reward.source={reward}"
    texts = f"ptx.path={out / 'data' / 'texts' / 'train.jsonl'}"
    return [
        train("sft", "demonstrations"),
        train("reward", "rankings", start),
        train("ppo", "prompts", start, judged),
        train("ppo_ptx", "prompts", start, judged, texts),
        rank_answers(sft, out / "data", out / "ranked", seed),
        [
            "train",
            shipped_config("words_dpo.yaml"),
            start,
            f"data.path={out / 'ranked'}",
            f"output={out / 'dpo'}",
            f"seed={seed}",
        ],
    ]


def rank_answers(model: Path, data: Path, out: Path, seed: int) -> list[str]:
    """The command line that makes DPO's data, as in the sentiment experiment of its paper."""
    how = ["--answers", str(ANSWERS), "--rank-by", "words", "--max-tokens", "96", "--batch-size", "128"]
    prompts = str(data / "prompts" / "train.jsonl")
    return ["generate", "--model", str(model), "--prompts", prompts, *how, "--seed", str(seed), "--out", str(out)]


def write_data(folder: Path, seed: int) -> None:
    """As `scripts/make_words_data.py` does; equal seeds give equal bytes, so that runs find their data unchanged."""
    from diffdpo.words.records import write_records

    if not all((folder / kind / "test.jsonl").exists() for kind in SIZES):
        write_records(folder, SIZES, seed=seed, n_held_out=HELD_OUT)


def _measured(out: Path, seed: int) -> list[dict[str, Any]]:
    from diffdpo.benchmarks.frontier.points import row
    from diffdpo.commands.frontier import write_frontier
    from diffdpo.commands.text_world import best_of_n, measure

    sft, folder = str(out / "sft" / "model"), out / "measured"
    models = {"base": "words", "sft": sft, **{name: str(out / name / "model") for name in METHODS}}
    runs = [
        measure(model, sft, folder / f"{name}.json", method=name.replace("_", "-"), setting="", seed=seed)
        for name, model in models.items()
    ]
    runs += best_of_n(sft, str(out / "reward" / "reward"), BEST_OF, folder, seed=seed)
    return [row(point) for point in write_frontier(out, runs)]
