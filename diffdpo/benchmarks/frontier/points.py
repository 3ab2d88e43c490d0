"""Points of a frontier: measured on the same prompts and texts, averaged over seeds, with intervals."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffdpo.benchmarks.statistics import Estimate, Interval, mean_estimate, paired_difference
from diffdpo.runs import read_json, write_json


@dataclass(frozen=True)
class Measured:
    """One run, prompt by prompt and text by text.

    Attributes:
        method: such as `ppo`; `setting`: what its runs differ in, such as `kl_coef 0.1`.
        rewards, kls: of each prompt; KL in nats. Where the KL is known by a formula all are equal.
        losses: of each plain text, nats per token; none where nothing was trained.
        of: what models these are figures of; other ones are measured anew.
    """

    method: str
    setting: str
    seed: int
    rewards: list[float]
    kls: list[float]
    losses: list[float]
    length: float
    ended: float
    of: str = ""

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Measured:
        return cls(**read_json(path))


@dataclass(frozen=True)
class Point:
    """Runs of one method and setting together; intervals are bootstraps over prompts or texts.

    Attributes:
        each: the mean reward of every run, which tells how far seeds lie apart.
    """

    method: str
    setting: str
    seeds: int
    reward: Estimate
    kl: Estimate
    perplexity: Estimate | None
    length: float
    ended: float
    each: tuple[float, ...]


def point(runs: Sequence[Measured]) -> Point:
    """Of runs that differ in the seed alone: a prompt's value is first averaged over them."""
    first = runs[0]
    losses = _over_seeds(runs, "losses") if first.losses else None
    return Point(
        first.method,
        first.setting,
        len(runs),
        mean_estimate(_over_seeds(runs, "rewards")),
        mean_estimate(_over_seeds(runs, "kls")),
        None if losses is None else _exponential(mean_estimate(losses)),
        float(np.mean([run.length for run in runs])),
        float(np.mean([run.ended for run in runs])),
        tuple(float(np.mean(run.rewards)) for run in runs),
    )


def points(runs: Sequence[Measured]) -> list[Point]:
    """One per method and setting, in the order they come."""
    groups: dict[tuple[str, str], list[Measured]] = {}
    for run in runs:
        groups.setdefault((run.method, run.setting), []).append(run)
    return [point(group) for group in groups.values()]


def tax(runs: Sequence[Measured], others: Sequence[Measured]) -> Estimate:
    """By which factor the others' perplexity of plain text is that of `runs`, text by text."""
    return _exponential(paired_difference(_over_seeds(runs, "losses"), _over_seeds(others, "losses")))


def gain(runs: Sequence[Measured], others: Sequence[Measured]) -> Estimate:
    """By how much the others' reward is above that of `runs`, prompt by prompt."""
    return paired_difference(_over_seeds(runs, "rewards"), _over_seeds(others, "rewards"))


def markdown(found: Sequence[Point]) -> Iterator[str]:
    """A table, line by line."""
    yield "| method | setting | reward | of each seed | KL, nats | perplexity of plain text | tokens | ended |"
    yield "|---|---|---|---|---|---|---|---|"
    for one in found:
        perplexity = "" if one.perplexity is None else spelled(one.perplexity, 3)
        each = ", ".join(f"{reward:.2f}" for reward in one.each) if one.seeds > 1 else ""
        measured = f"{spelled(one.reward)} | {each} | {spelled(one.kl)} | {perplexity}"
        yield f"| {one.method} | {one.setting} | {measured} | {one.length:.1f} | {one.ended:.1%} |"


def comma_separated(found: Sequence[Point]) -> str:
    """The same as CSV, with the ends of the intervals in columns of their own."""
    text = io.StringIO()
    rows = [row(one) for one in found]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def spelled(found: Estimate, digits: int = 2) -> str:
    low, high = found.interval.low, found.interval.high
    if low == high:
        return f"{found.mean:.{digits}f}"
    return f"{found.mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def row(one: Point) -> dict[str, Any]:
    """A point's figures by column; empty where there is none."""
    found: dict[str, Any] = {"method": one.method, "setting": one.setting, "seeds": one.seeds}
    for name, value in (("reward", one.reward), ("kl", one.kl), ("perplexity", one.perplexity)):
        ends = [""] * 3 if value is None else [value.mean, value.interval.low, value.interval.high]
        found |= dict(zip((name, f"{name}_low", f"{name}_high"), map(_short, ends), strict=True))
    return {**found, "length": _short(one.length), "ended": _short(one.ended)}


def _short(value: float | str) -> float | str:
    """Six significant digits."""
    return value if isinstance(value, str) else float(f"{value:.6g}")


def _over_seeds(runs: Sequence[Measured], name: str) -> list[float]:
    values: list[float] = np.mean([getattr(run, name) for run in runs], axis=0).tolist()
    return values


def _exponential(found: Estimate) -> Estimate:
    low, high = math.exp(found.interval.low), math.exp(found.interval.high)
    return Estimate(math.exp(found.mean), Interval(low, high), found.n)
