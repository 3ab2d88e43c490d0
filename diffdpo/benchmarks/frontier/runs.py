"""Finished `bench text` runs as points of one frontier: the judge's score against the KL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from diffdpo.benchmarks.frontier.points import Measured
from diffdpo.errors import UserError
from diffdpo.runs import is_complete, read_json, read_manifest

COMMAND, RESULTS = "bench text", "results.jsonl"
SHARED = ("judge", "prompts", "texts", "reference", "baseline", "decoding")
"""Settings that all runs of a frontier have alike. Seeds may differ: they are averaged over."""
BASELINE = "baseline"


class Named(NamedTuple):
    """A run and what it is to be called; runs of one method and setting are seeds of one point."""

    method: str
    setting: str
    folder: Path


def named(given: str) -> Named:
    """`METHOD:SETTING=FOLDER`, `METHOD=FOLDER`, or a folder, which is then called by its own name."""
    name, equals, folder = given.partition("=")
    if not equals or Path(given).is_dir():
        return Named(Path(given).name, "", Path(given))
    method, _, setting = name.partition(":")
    return Named(method, setting, Path(folder))


def read_runs(given: Sequence[Named]) -> tuple[list[Measured], str]:
    """The runs, prompt by prompt, the baseline before them, and what the upright axis is called.

    Raises:
        UserError: a folder is no finished run, has no KL, or differs from the first in what must be alike.
    """
    settings = [_settings(one.folder) for one in given]
    for one, own in zip(given[1:], settings[1:], strict=True):
        other = [name for name in SHARED if _alike(own[name]) != _alike(settings[0][name])]
        if other:
            raise UserError(f"{one.folder}: has another {', '.join(other)} than {given[0].folder}; measure them alike")
    seeds = [int(own["seed"]) for own in settings]
    found = [_ours(one, seed) for one, seed in zip(given, seeds, strict=True)]
    if _alike(settings[0][BASELINE]) == _alike(settings[0]["reference"]):
        of_seed = dict(zip(seeds, given, strict=True))
        found = [_baseline(one, seed) for seed, one in of_seed.items()] + found
    return found, "score" if "score" in _rows(given[0].folder)[0] else "win rate"


def _ours(one: Named, seed: int) -> Measured:
    rows = _rows(one.folder)
    rewards = [row.get("score", row["outcome"]) for row in rows]
    return Measured(
        *(one.method, one.setting, seed, rewards, [row["log_ratio"] for row in rows], _losses(one.folder / "texts")),
        length=fmean(row["tokens"] for row in rows),
        ended=fmean(row["ended"] for row in rows),
    )


def _baseline(one: Named, seed: int) -> Measured:
    """Against itself: no KL, and a win rate of one half where the judge gives no scores."""
    rows, answers = _rows(one.folder), _blocks(one.folder / BASELINE)
    rewards = [row.get("baseline_score", 0.5) for row in rows]
    return Measured(
        *(BASELINE, "", seed, rewards, [0.0] * len(rows), _losses(one.folder / f"texts_{BASELINE}")),
        length=fmean(sum(answer["completion"]) for answer in answers),
        ended=fmean(row["baseline_ended"] for row in rows),
    )


def _losses(texts: Path) -> list[float]:
    return [-row["logp"] / row["tokens"] for row in _blocks(texts)]


def _settings(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    if manifest["command"] != COMMAND or not is_complete(folder):
        raise UserError(f"{folder}: not a finished run of `diffdpo bench text`")
    settings: dict[str, Any] = manifest["settings"]
    if not settings["kl"]:
        raise UserError(f"{folder}: was measured without a KL, so it has no place on a frontier")
    return settings


def _alike(value: Any) -> Any:
    """A model by its content, whatever its path; decoding whatever its batches."""
    if not isinstance(value, dict):
        return value
    return value.get("content", {key: what for key, what in value.items() if key != "batch_size"})


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / RESULTS).read_text(encoding="utf-8").splitlines()]


def _blocks(folder: Path) -> list[dict[str, Any]]:
    return [row for file in sorted(folder.glob("[0-9]*.json")) for row in read_json(file)]
