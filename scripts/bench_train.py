"""How fast training is, against the reference algorithm, and what each optimisation brings.

    python scripts/bench_train.py                                        # the micro world's architecture, on a CPU
    python scripts/bench_train.py --model sd15 --size 256 --lora 8       # SD1.5's, with random weights
    python scripts/bench_train.py --without all --with table             # every optimisation left out in turn
    python scripts/bench_train.py --losses 20 --model shapes             # that both ways compute the same
    python scripts/bench_train.py --memory                               # the peak of each way, in a process of its own
    python scripts/bench_train.py --growth 1 2 4 8                       # pairs/s by pairs per micro-step
    python scripts/bench_train.py --count                                # FLOPs alone: nothing is computed

Both ways do the same work on the same pairs and draws, in turns, in one process. What a ratio may be is counted from
their FLOPs. Nothing is fetched: weights are random, since speed does not depend on them. `--model shapes` is the micro
world's trained model with pictures of its own, for `--losses`, whose rounding depends on the weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from speed.bound import Products
from speed.clock import Times, Way, forget_peak, kind_of, median_ratio, peak_bytes, take_turns
from speed.flops import Flops, count_parts
from speed.machine import machine
from speed.models import MODELS, TRAINED
from speed.official import Official
from speed.ours import DEFAULT, EXTRA, Ours, there
from speed.workload import Bench, Workload

from diffdpo.models.memory.footprint import HALVES


def main(argv: list[str] | None = None) -> dict[str, Any]:
    words = sys.argv[1:] if argv is None else argv
    asked = parser()
    args = asked.parse_args(words)
    if args.one_copy and not args.no_update:
        asked.error("--one-copy: the reference would move with the weights; add --no-update")
    if args.no_update and "prefetch" in args.extra:
        asked.error("--with prefetch: what comes is announced with each update; leave --no-update out")
    torch.set_num_threads(args.threads)
    workload = workload_of(args)
    found: dict[str, Any]
    if args.memory:
        found = {"memory": memory(args, words)}
    elif args.losses:
        found = {"losses": losses(workload, args.losses, double=args.double)}
    elif args.growth:
        found = {"growth": [growth(workload, pairs, args) for pairs in args.growth]}
    else:
        parts = count_parts(workload)
        show_parts(parts)
        found = {"flops_per_pair": dataclasses.asdict(parts)}
        if not args.count:
            found |= measure(workload, parts, args)
    result = {"workload": dataclasses.asdict(workload), "machine": machine(workload.device), **found}
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description="Speed of training against the reference algorithm.")
    add = found.add_argument
    add("--model", choices=[*MODELS, TRAINED], default="tiny", help=f"{TRAINED}: tiny, with trained weights")
    add("--size", type=int, help="edge of the images, pixels (default: what the model was made for)")
    add("--pairs", type=int, default=1, help="per micro-step (default: 1)")
    add("--lora", type=int, default=0, metavar="RANK", help="0 (default) trains the whole network")
    add("--precision", choices=("fp32", "bf16"), default="fp32")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--threads", type=int, default=1, help="of the processor (default: 1)")
    add("--optimizer", choices=("adamw", "adafactor"), default="adamw")
    add("--learning-rate", type=float, default=1e-6, metavar="RATE")
    add("--beta", type=float, default=5000.0)
    add("--no-update", action="store_true", help="forward and backward only, as within a large batch")
    add("--one-copy", action="store_true", help="the frozen UNet is the trained one, where memory is short")
    add(
        "--without",
        nargs="*",
        default=[],
        choices=[*DEFAULT, "all"],
        help="; ".join(f"{k}: {v}" for k, v in DEFAULT.items()),
    )
    add(
        "--with",
        nargs="*",
        default=[],
        choices=[*EXTRA],
        dest="extra",
        help="; ".join(f"{k}: {v}" for k, v in EXTRA.items()),
    )
    add("--rounds", type=int, default=5)
    add("--steps", type=int, default=4, help="timed, of each way in each round (default: 4)")
    add("--warmup", type=int, default=1, help="steps before those (default: 1)")
    add("--losses", type=int, metavar="N", help="compare the losses of N steps instead")
    add("--double", action="store_true", help="with --losses: in float64")
    add("--memory", action="store_true", help="compare the peaks of memory instead")
    add("--growth", type=int, nargs="+", metavar="PAIRS", help="ours alone at so many pairs per micro-step instead")
    add("--count", action="store_true", help="count FLOPs, measure nothing")
    add("--json", type=Path, metavar="FILE", help="write the figures there")
    add("--alone", choices=ALONE, help=argparse.SUPPRESS)
    return found


def workload_of(args: argparse.Namespace) -> Workload:
    return Workload(
        model=args.model,
        size=args.size,
        pairs=args.pairs,
        stored=max(2, args.pairs),
        lora_rank=args.lora,
        precision=args.precision,
        device=args.device,
        optimizer=args.optimizer,
        learning_rate=args.learning_rate,
        beta=args.beta,
        update=not args.no_update,
        one_copy=args.one_copy,
    )


def measure(workload: Workload, parts: Flops, args: argparse.Namespace) -> dict[str, Any]:
    """Every way's row; the gains are over the reference algorithm's step."""
    with Bench(workload) as bench:
        ours = ways_of(bench, args)
        products = Products(workload.device, HALVES.get(workload.precision, torch.float32))
        ways: list[Way] = [Official(bench), *ours]
        *times, alone = take_turns(
            [*ways, products], workload.device, rounds=args.rounds, steps=args.steps, warmup=args.warmup, tell=tell
        )
        bound = products.rate(alone)
        flops = [parts.official, *(parts.ours(way) for way in ours)]
        rows = [
            row_of(way.name, workload, times[0], own, flops[0], n, bound, again=parts.again(way))
            for way, own, n in zip(ways, times, flops, strict=True)
        ]
        show_rows(rows, workload, bound)
        costs = {"cache_seconds_per_pair": bench.cache_seconds / workload.stored}
        table = next((way.table_seconds for way in ours if way.table_seconds), None)
        costs |= {"table_seconds_per_pair": table} if table else {}
        show_costs(costs, rows, workload)
        return {"rows": rows, "bound_tflops_per_second": bound, **costs}


def ways_of(bench: Bench, args: argparse.Namespace) -> list[Ours]:
    """Ours; with each extra; without each of what is left out, one at a time."""
    steps = args.warmup + args.steps
    without = [name for name in DEFAULT if there(name, bench.workload)] if "all" in args.without else args.without
    return [
        Ours(bench),
        *(Ours(bench, extra=[name], steps=steps) for name in args.extra),
        *(Ours(bench, without=[name]) for name in without),
    ]


def row_of(
    name: str, workload: Workload, slow: Times, own: Times, slow_flops: int, flops: int, bound: float, *, again: int
) -> dict[str, Any]:
    """Args:
    slow, slow_flops: the reference algorithm's.
    bound: TFLOP/s; the share of it is that of the FLOPs that a step needs.
    again: of `flops`, those that it does not need.
    """
    kind, seconds = kind_of(workload.device), own.seconds(workload.device)
    gain, low, high = median_ratio(getattr(slow, kind), getattr(own, kind))
    rate = flops * workload.pairs / seconds / 1e12
    return {
        "way": name,
        "seconds_wall": own.median("wall"),
        "seconds_processor": own.median("processor"),
        "times": dataclasses.asdict(own),
        "pairs_per_second": workload.pairs / seconds,
        "tflops_per_pair": flops / 1e12,
        "tflops_per_second": rate,
        "share_of_bound": rate * (1 - again / flops) / bound,
        "predicted_gain": slow_flops / flops,
        "gain": gain,
        "gains": [low, high],
        "share": gain / (slow_flops / flops),
    }


def show_parts(parts: Flops) -> None:
    told = {
        "UNet, forward": parts.forward,
        "UNet, forward and backward": parts.trained,
        "the same, checkpointed": parts.remade,
        "autoencoder": parts.images,
        "text encoders": parts.text,
    }
    print("TFLOP per pair: " + "; ".join(f"{name} {value / 1e12:.4g}" for name, value in told.items()))


def show_rows(rows: list[dict[str, Any]], workload: Workload, bound: float) -> None:
    clock = "time on the wall" if workload.device == "cuda" else "processor time"
    print(f"\nby {clock}; medians, and of the gains the extremes")
    print(f"the bound, products of large matrices: {bound:.3g} TFLOP/s; what checkpointing repeats is no share of it\n")
    print("| way | s per step | pairs/s | TFLOP per pair | TFLOP/s | of the bound | gain | FLOPs predict | reached |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        seconds = row[f"seconds_{kind_of(workload.device)}"]
        low, high = row["gains"]
        print(
            f"| {row['way']} | {seconds:.3g} | {row['pairs_per_second']:.3g} | {row['tflops_per_pair']:.4g} "
            f"| {row['tflops_per_second']:.3g} | {row['share_of_bound']:.0%} "
            f"| {row['gain']:.2f} ({low:.2f} to {high:.2f}) | {row['predicted_gain']:.2f} | {row['share']:.0%} |"
        )


def show_costs(costs: dict[str, Any], rows: list[dict[str, Any]], workload: Workload) -> None:
    """What is made before training, and after how much of it that is paid back."""
    by_way = {row["way"]: 1 / row["pairs_per_second"] for row in rows}
    built = costs["cache_seconds_per_pair"]
    print(f"\nencoding a pair, once: {built:.3g} s; the reference algorithm does it in every step")
    if "ours, without cache" in by_way:
        saved = by_way["ours, without cache"] - by_way["ours"]
        print(f"the cache saves {saved:.3g} s per pair and step{_after(built, saved, 'epochs')}")
    if "table_seconds_per_pair" in costs:
        table = costs["table_seconds_per_pair"]
        saved = by_way["ours"] - by_way["ours, with table"]
        paid = _after(table, saved, "runs over the same draws")
        print(f"the reference's errors of a pair and draw: {table:.3g} s; the table saves {saved:.3g} s per pair{paid}")


def _after(cost: float, saved: float, unit: str) -> str:
    return f": paid for after {cost / saved:.2g} {unit}" if saved > 0 else ": nothing"


def losses(workload: Workload, steps: int, *, double: bool = False) -> dict[str, Any]:
    """Losses of both ways from the same weights, over the same pairs and draws.

    Args:
        double: in float64, where no rounding hides a difference. Latents stay as they are cached.
    """
    with Bench(workload) as bench:
        if double:
            bench.model.network.double()
        first = bench.weights()
        found: dict[str, list[float]] = {}
        ways: list[Way] = [Official(bench), Ours(bench)]
        for way in ways:
            bench.restore(first)
            way.open()
            found[way.name] = [float(way.step(number)) for number in range(steps)]
            way.close()
            tell(f"{way.name}: {steps} steps")
        gap = max(abs(a - b) for a, b in zip(*found.values(), strict=True))
    theirs = found["reference algorithm"]
    print(f"{steps} steps; losses from {theirs[0]:.6f} to {theirs[-1]:.6f}; largest difference {gap:.1e}")
    if workload.model == TRAINED:
        return {**found, "largest_gap": gap}
    # Errors are about 1 where weights are random, and float32 has steps of 2^-23 there.
    resolution = workload.beta / 2 * 2.0 ** (-52 if double else -23)
    print(f"one rounding of one error moves the logit of its pair by {resolution:.1e}")
    return {**found, "largest_gap": gap, "resolution": resolution}


def growth(workload: Workload, pairs: int, args: argparse.Namespace) -> dict[str, Any]:
    """Ours at another number of pairs per micro-step, which may not fit."""
    other = dataclasses.replace(workload, pairs=pairs, stored=max(8, pairs))
    try:
        with Bench(other) as bench:
            way = Ours(bench)
            [times] = take_turns(
                [way], other.device, rounds=args.rounds, steps=args.steps, warmup=args.warmup, tell=tell
            )
    except torch.OutOfMemoryError:
        print(f"{pairs} pairs per micro-step: do not fit", flush=True)
        return {"pairs": pairs, "fits": False}
    row = {"pairs": pairs, "pairs_per_second": pairs / times.seconds(other.device), "times": dataclasses.asdict(times)}
    print(f"{pairs} pairs per micro-step: {row['pairs_per_second']:.3g} pairs/s", flush=True)
    return row


ALONE = ("official", "ours", "checkpointed", "table", "both")
"""`checkpointed` is ours with gradient checkpointing, as the reference algorithm has it; `both` with the table too."""


def memory(args: argparse.Namespace, words: Sequence[str]) -> dict[str, Any]:
    """Peaks of every way, each in a process of its own, in 1e9 bytes. `words` are those of the command line."""
    if args.alone:
        return {args.alone: peak_of(workload_of(args), args.alone)}
    found: dict[str, Any] = {}
    for name in ALONE:
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            again = [*words, "--alone", name, "--json", file.name]
            subprocess.run([sys.executable, __file__, *again], check=True, stdout=subprocess.DEVNULL)
            found |= json.loads(Path(file.name).read_text(encoding="utf-8"))["memory"]
        print(f"{name}: {found[name]:.3g} GB at its peak, {found[name] / found['official']:.2f} times", flush=True)
    return found


def peak_of(workload: Workload, name: str) -> float:
    """One way's peak while it trains, over what Python and its libraries take, in 1e9 bytes."""
    forget_peak(workload.device)
    before = peak_bytes(workload.device)
    with Bench(workload) as bench:
        if name == "official":
            way: Way = Official(bench)
        else:
            checkpointed, table = name in ("checkpointed", "both"), name in ("table", "both")
            way = Ours(bench, without=["activations"] * checkpointed, extra=["table"] * table)
        way.open()
        if isinstance(way, Ours):
            way.encoders = {}  # nobody puts them back: they leave the memory, as in a run
        forget_peak(workload.device)
        way.step(0)
        return (peak_bytes(workload.device) - before) / 1e9


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
