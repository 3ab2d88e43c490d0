"""The checks of gpu_check.sh, each by its name; each writes OUT/NAME.json.

    python scripts/gpu_check.py NAME --out DIR [--tiny]
    python scripts/gpu_check.py --list

With `--tiny` a CPU will do: the same code on small sizes. What only a GPU has is then said to be skipped. Where a check
knows what is right it says `passed`, and the exit status is 1 if that is false.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import bench_label
import bench_train
import torch
from speed.bound import matmul_rate
from speed.clock import forget_peak, peak_bytes, wait_for
from speed.machine import machine
from speed.ours import Ours
from speed.workload import Bench, Workload

from diffdpo.models.memory.architectures import architecture_of, published
from diffdpo.models.memory.footprint import Tuning, footprint

LN_2 = torch.tensor(2.0).log().item()
"""As float32 has it."""


@dataclass(frozen=True)
class Place:
    """Where a check runs, and how large."""

    tiny: bool

    @property
    def device(self) -> str:
        return "cpu" if self.tiny else "cuda"

    @property
    def model(self) -> str:
        return "tiny" if self.tiny else "sd15"

    def workload(self, **changes: Any) -> Workload:
        own = {"model": self.model, "device": self.device, "pairs": 2 if self.tiny else 4}
        return Workload(**{**own, **changes})


def matmul(place: Place) -> dict[str, Any]:
    """The bound of all the rest: products of square matrices, TFLOP/s."""
    size, times = (256, 3) if place.tiny else (None, 30)
    dtypes = (torch.bfloat16, torch.float32)
    rates = {str(one).removeprefix("torch."): matmul_rate(place.device, one, size=size, times=times) for one in dtypes}
    return {"tflops_per_second": rates}


def host_syncs(place: Place) -> dict[str, Any]:
    """A step, after the first ones, must wait for nothing on the device; torch raises an error where one does."""
    found = {}
    for rank in (0, 8):
        with Bench(place.workload(lora_rank=rank, precision="bf16")) as bench:
            way = Ours(bench)
            way.open()
            for number in range(2):
                way.step(number)
            if not place.tiny:
                torch.cuda.set_sync_debug_mode("error")
            try:
                way.step(2)
                found[f"rank {rank}"] = "none"
            except RuntimeError as error:
                found[f"rank {rank}"] = str(error).splitlines()[0]
            finally:
                if not place.tiny:
                    torch.cuda.set_sync_debug_mode("default")
            way.close()
    skipped = "a CPU has nothing to wait for" if place.tiny else None
    return {"waits": found, "passed": set(found.values()) == {"none"}, "skipped": skipped}


def bf16_loss(place: Place) -> dict[str, Any]:
    """How far bf16 moves a pair's logit and loss, of weights that have moved away from the reference."""
    found = {}
    for precision in ("fp32", "bf16"):
        with Bench(place.workload(precision=precision)) as bench:
            way = Ours(bench)
            way.open()
            _nudge(bench.model.network)
            with torch.no_grad(), way.training.accelerator.autocast():
                recipe: Any = way.training.recipe
                figures = [recipe.loss(recipe.network, [(index, 0)])[1] for index in range(8)]
            way.close()
        found[precision] = {key: [float(one[key]) for one in figures] for key in ("loss", "rewards/margins")}
    gaps = {key: _gap(found["fp32"][key], found["bf16"][key]) for key in found["fp32"]}
    return {"beta": place.workload().beta, "largest_gap": gaps, **found}


def first_loss(place: Place) -> dict[str, Any]:
    """ln 2, to the bit, before the first step: the reference runs the policy's kernels."""
    found = {}
    for rank, precision in ((0, "bf16"), (0, "fp32"), (8, "bf16")):
        with Bench(place.workload(lora_rank=rank, precision=precision)) as bench:
            way = Ours(bench)
            way.open()
            found[f"rank {rank}, {precision}"] = float(way.step(0))
            way.close()
    return {"loss": found, "ln_2": LN_2, "passed": set(found.values()) == {LN_2}}


def compiled(place: Place) -> dict[str, Any]:
    """Compiled blocks against plain ones: losses, what the first steps take, and speed."""
    plain, fast = (_few_steps(place, compiled=blocks, precision="bf16") for blocks in (False, True))
    return {"plain": plain, "compiled": fast, **_compared(plain, fast)}


def graphs(place: Place) -> dict[str, Any]:
    """CUDA graphs of compiled blocks, of one pair and a LoRA: where launching kernels weighs most."""
    small: dict[str, Any] = {"precision": "bf16", "pairs": 1, "lora_rank": 8}
    plain, blocks = (_few_steps(place, compiled=blocks, **small) for blocks in (False, True))
    inductor: Any = torch._inductor.config
    try:
        with inductor.patch("triton.cudagraphs", True):  # what torch.compile's mode "reduce-overhead" sets
            torch.compiler.reset()
            graphed = _few_steps(place, compiled=True, **small)
    except RuntimeError as error:  # memory that a graph wrote over, for one: then they cannot be had
        return {"plain": plain, "compiled": blocks, "graphs": None, "error": " ".join(str(error).split())[:500]}
    skipped = "a CPU has no CUDA graphs" if place.tiny else None
    return {"plain": plain, "compiled": blocks, "graphs": graphed, **_compared(blocks, graphed), "skipped": skipped}


def _few_steps(place: Place, *, compiled: bool, **changes: Any) -> dict[str, Any]:
    """Four losses, what the first steps take, and a later one."""
    with Bench(place.workload(**changes)) as bench:
        if compiled:
            bench.model.compile_blocks("eager" if place.tiny else "inductor")
        way = Ours(bench)
        way.open()
        start = time.perf_counter()
        losses = [float(way.step(number)) for number in range(4)]
        first = time.perf_counter() - start
        seconds = _seconds(place, partial(way.step, 4), 2 if place.tiny else 10)
        way.close()
    return {"losses": losses, "first_steps_seconds": first, "seconds_per_step": seconds}


def _compared(plain: dict[str, Any], fast: dict[str, Any]) -> dict[str, Any]:
    return {
        "largest_gap": _gap(plain["losses"], fast["losses"]),
        "gain": plain["seconds_per_step"] / fast["seconds_per_step"],
    }


def fp16_scaler(place: Place) -> dict[str, Any]:
    """fp16 finds its scale and trains on: which steps were left out, and whether the weights are finite."""
    precision = "bf16" if place.tiny else "fp16"
    with Bench(place.workload(precision=precision)) as bench:
        way = Ours(bench)
        way.open()
        left_out = [float(way.training._step(number)["skipped"]) for number in range(3 if place.tiny else 12)]
        scaler = way.training.accelerator.scaler
        finite = all(bool(p.isfinite().all()) for p in way.training.parameters)
        scale = scaler.get_scale() if scaler else None
        way.close()
    return {
        "left_out": left_out,
        "scale": scale,
        "passed": finite,
        "skipped": "no fp16 on a CPU" if place.tiny else None,
    }


def memory(place: Place) -> dict[str, Any]:
    """The estimate of `diffdpo train --dry-run` against the peak of a step."""
    rows = []
    for rank in (0, 8):
        for checkpointed in (False, True):
            workload = place.workload(lora_rank=rank, precision="bf16")
            with Bench(workload) as bench:
                way = Ours(bench, without=["activations"] if checkpointed else [])
                way.open()
                way.encoders = {}  # they leave the memory, as in a run
                way.step(0)
                forget_peak(place.device)
                way.step(1)
                peak = peak_bytes(place.device)
            tuning = Tuning(
                images=2 * workload.pairs,
                size=(workload.pixels, workload.pixels),
                lora_rank=rank,
                copy=rank == 0,
                precision="bf16",
                checkpointing=checkpointed,
                gpu=not place.tiny,
            )
            shape = architecture_of(str(_tiny_folder())) if place.tiny else published("sd15")
            assert shape is not None
            estimate = footprint(shape, tuning).total
            rows.append(
                {
                    "rank": rank,
                    "checkpointing": checkpointed,
                    "estimate": estimate,
                    "peak": peak,
                    "ratio": estimate / peak,
                }
            )
    return {"rows": rows, "skipped": "a CPU's peak is that of the whole process" if place.tiny else None}


def step_sd15(place: Place) -> dict[str, Any]:
    """SD1.5 at 512 px against the reference algorithm, full and LoRA, and where the time goes."""
    pairs = "2" if place.tiny else "8"
    return {
        name: _bench(
            place, place.model, pairs, ["--with", "table", "prefetch", "--without", *without, *extra], rounds="2"
        )
        for name, without, extra in (("full", ["all"], []), ("lora", ["adapter"], ["--lora", "8"]))
    } | {"profile": profile(place)}


def step_sdxl(place: Place) -> dict[str, Any]:
    """SDXL at 1024 px against the reference algorithm."""
    model, pairs = ("tiny", "2") if place.tiny else ("sdxl", "1")
    return {
        "lora": _bench(place, model, pairs, ["--lora", "8"], rounds="2"),
        "full": _bench(place, model, pairs, ["--optimizer", "adafactor", "--without", "activations"], rounds="2"),
    }


def peaks(place: Place) -> dict[str, Any]:
    """Peaks of memory of both ways, each in a process of its own."""
    pairs = "2" if place.tiny else "4"
    return {
        name: _bench(place, place.model, pairs, ["--memory", *extra], rounds="1")
        for name, extra in {"full": [], "lora": ["--lora", "8"]}.items()
    }


def growth(place: Place) -> dict[str, Any]:
    """Pairs/s by pairs per micro-step."""
    sizes = ["1", "2"] if place.tiny else ["1", "2", "4", "8", "16"]
    return _bench(place, place.model, "1", ["--growth", *sizes], rounds="1")


def labelling(place: Place) -> dict[str, Any]:
    """Images per second drawn, scored, paired and written, against a loop over the plain pipeline."""
    prompts, candidates, steps = ("2", "2", "2") if place.tiny else ("6", "4", "25")
    return bench_label.main(
        ["--model", place.model, "--device", place.device, "--precision", "fp32" if place.tiny else "fp16",
         "--prompts", prompts, "--candidates", candidates, "--steps", steps, "--guidance", "7.5",
         "--batch-size", "16", "--without", "all", "--rounds", "1" if place.tiny else "2"]
    )  # fmt: skip


def text(place: Place) -> dict[str, Any]:
    """A short text DPO with the words world's model: first loss, and pairs per second."""
    from diffdpo.config import load_config
    from diffdpo.recipes import find_config
    from diffdpo.training.text.runner import run_text
    from diffdpo.words.weights import LANGUAGE_MODEL

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "pairs.jsonl"
        rows = [{"prompt": f"a review of thing {n}:", "chosen": " very good", "rejected": " bad"} for n in range(64)]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        steps = 3 if place.tiny else 100
        keys = {
            "output": f"{folder}/run", "model.path": LANGUAGE_MODEL, "data.path": data, "data.max_length": 128,
            "training.steps": steps,
            "training.batch_size": 8, "training.log_every": steps // 3, "training.evaluate_every": steps,
        }  # fmt: skip
        run_text(load_config(find_config("text_dpo.yaml"), [f"{key}={value}" for key, value in keys.items()]))  # type: ignore[arg-type]
        lines = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    return {"metrics": lines}


CHECKS: dict[str, Callable[[Place], dict[str, Any]]] = {
    check.__name__: check
    for check in (
        matmul, first_loss, host_syncs, bf16_loss, step_sd15, memory, fp16_scaler, step_sdxl, text, labelling, growth,
        peaks, compiled, graphs,
    )
}  # fmt: skip
"""In this order: what matters most comes first, what may take long last."""


def profile(place: Place) -> list[dict[str, Any]]:
    """The kernels that a step of full training spends its time in."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    with Bench(place.workload(precision="bf16")) as bench:
        way = Ours(bench)
        way.open()
        way.step(0)
        activities = [ProfilerActivity.CPU] if place.tiny else [ProfilerActivity.CPU, ProfilerActivity.CUDA]
        with profiled(activities=activities) as found:
            way.step(1)
            wait_for(place.device)
        way.close()
    key = "self_cpu_time_total" if place.tiny else "self_device_time_total"
    events = sorted(found.key_averages(), key=lambda event: -getattr(event, key))
    whole = sum(getattr(event, key) for event in events)
    return [{"name": e.key, "share": getattr(e, key) / whole, "calls": e.count} for e in events[:15]]


def _bench(place: Place, model: str, pairs: str, extra: list[str], rounds: str) -> dict[str, Any]:
    steps = "1" if place.tiny else "4"
    return bench_train.main(
        ["--model", model, "--pairs", pairs, "--device", place.device, "--precision", "bf16",
         "--rounds", "1" if place.tiny else rounds, "--steps", steps, "--warmup", "1", *extra]
    )  # fmt: skip


def _seconds(place: Place, work: Callable[[], object], times: int) -> float:
    wait_for(place.device)
    start = time.perf_counter()
    for _ in range(times):
        work()
    wait_for(place.device)
    return (time.perf_counter() - start) / times


def _nudge(network: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            step = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.add_(step * 1e-3 * parameter.abs().mean())


def _gap(a: list[float], b: list[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def _tiny_folder() -> Path:
    from diffdpo.shapes.weights import GENERATOR

    return GENERATOR


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="One check of gpu_check.sh.")
    parser.add_argument("check", nargs="?", choices=list(CHECKS))
    parser.add_argument("--list", action="store_true", help="print the names of the checks")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu_check"), metavar="DIR")
    parser.add_argument("--tiny", action="store_true", help="small, on a CPU")
    args = parser.parse_args(argv)
    if args.list or args.check is None:
        print("\n".join(CHECKS))
        return
    place = Place(args.tiny)
    start = time.perf_counter()
    found = CHECKS[args.check](place)
    result = {
        "check": args.check,
        "what": (CHECKS[args.check].__doc__ or "").strip(),
        "tiny": args.tiny,
        "machine": machine(place.device),
        "seconds": time.perf_counter() - start,
        **found,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{args.check}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if result.get("passed") is False:
        sys.exit(f"{args.check}: not passed, see {args.check}.json")


if __name__ == "__main__":
    main()
