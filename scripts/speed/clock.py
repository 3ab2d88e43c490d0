"""Clocks for ways that take turns, so that a machine that grows slower meanwhile slows all of them; and memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch


class Way(Protocol):
    """One way to do a step. `open` and `close` stand around its steps; between them nobody else has the memory."""

    name: str

    def open(self) -> None: ...

    def close(self) -> None: ...

    def step(self, number: int) -> Any: ...


@dataclass
class Times:
    """Seconds of each step: by the clock on the wall, and of the processor that this process had."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def median(self, kind: str) -> float:
        seconds: list[float] = getattr(self, kind)
        return statistics.median(seconds)

    def seconds(self, device: str) -> float:
        """The median by the clock that counts there: the wall's on a GPU, the processor's on a CPU, which is shared."""
        return self.median(kind_of(device))


def kind_of(device: str) -> str:
    return "wall" if device == "cuda" else "processor"


def take_turns(
    ways: Sequence[Way], device: str, *, rounds: int, steps: int, warmup: int, tell: Callable[[str], None]
) -> list[Times]:
    """Times of every way: in each round each takes some steps, in an order that changes from round to round.

    Args:
        steps: of each way per round, timed one by one on a CPU and together on a GPU, where work goes on behind.
        warmup: steps before those, not timed.
    """
    times = [Times() for _ in ways]
    for number in range(rounds):
        order = list(range(len(ways)))
        for place in order if number % 2 == 0 else order[::-1]:
            way = ways[place]
            way.open()
            try:
                for step in range(warmup):
                    way.step(step)
                timed(way.step, times[place], device, range(warmup, warmup + steps))
            finally:
                way.close()
            tell(f"round {number + 1} of {rounds}: {way.name}: {times[place].wall[-1]:.3g} s per step")
    return times


def timed(step: Callable[[int], Any], times: Times, device: str, numbers: range) -> None:
    """Add what steps take: one by one on a CPU, together on a GPU."""
    blocks = [numbers] if device == "cuda" else [range(number, number + 1) for number in numbers]
    for block in blocks:
        wait_for(device)
        wall, processor = time.perf_counter(), time.process_time()
        for number in block:
            step(number)
        wait_for(device)
        times.wall.append((time.perf_counter() - wall) / len(block))
        times.processor.append((time.process_time() - processor) / len(block))


def wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def forget_peak(device: str) -> None:
    """From here on `peak_bytes` counts anew."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: str) -> int:
    """The most that this process had: of tensors on a GPU, of main memory on a CPU (Linux)."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def median_ratio(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, float, float]:
    """Median of the ratios of steps that were taken in the same round and place; the lowest and the highest."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)
