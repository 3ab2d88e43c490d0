"""Several models on one suite: what each one's reward is, and how far its images have drifted from a reference.

The trade-off that shows where to stop: along a training run rewards rise and images drift, and past some step a scorer
only follows the drift. Every model is a run like any other; here they are held against the reference's.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffdpo.benchmarks import drift, statistics, words
from diffdpo.benchmarks.pairing import check_same, per_prompt
from diffdpo.benchmarks.results import BenchRun
from diffdpo.benchmarks.statistics import Estimate
from diffdpo.benchmarks.tables import aligned

DISTANCE = "distance"
"""How far each image is from the reference's of the same noise, in an image encoder: see `drift`."""


@dataclass(frozen=True)
class Point:
    """One model."""

    name: str
    folder: str
    step: int | None
    """Of a checkpoint."""
    rewards: Mapping[str, Estimate]
    """The exact check's rate, where the suite has one, and every scorer's mean."""
    gains: Mapping[str, Estimate]
    """The same less the reference's, prompt by prompt."""
    drift: Mapping[str, Estimate]
    """`distance`, where there is an encoder, and each measure of drift less the reference's."""


def measure(
    runs: Mapping[str, BenchRun],
    reference: str,
    *,
    encode: drift.Encode | None = None,
    steps: Mapping[str, int] | None = None,
) -> list[Point]:
    """The points of a sweep, in the order of `runs`, whose keys are the models' names.

    Args:
        reference: the key of the model that the others are held against.
        encode: the image encoder; without one there is no distance and no diversity.
        steps: of those models that are checkpoints.

    Raises:
        UserError: the runs are not of the same prompts and seeds.
    """
    base = runs[reference]
    encode = None if encode is None else _once(encode)
    points = []
    for name, run in runs.items():
        check_same(base, run)
        measures = [*(["exact"] if "exact" in run.parts else []), *run.scorers]
        sides = {measure: tuple(_values(of, measure) for of in (base, run)) for measure in measures}
        drifted, distances = drift.sides(base, run, encode)
        found = {} if distances is None else {DISTANCE: statistics.mean_estimate(distances)}
        points.append(
            Point(
                name=name,
                folder=run.folder.name,
                step=None if steps is None else steps.get(name),
                rewards={measure: statistics.mean_estimate(after) for measure, (_, after) in sides.items()},
                gains={measure: statistics.paired_difference(*both) for measure, both in sides.items()},
                drift=found | {measure: statistics.paired_difference(*both) for measure, both in drifted.items()},
            )
        )
    return points


def table(points: Sequence[Point], reference: str) -> str:
    """The sweep as text: each reward's mean and gain, then the drift."""
    rewards, drifts = list(points[0].rewards), list(points[0].drift)
    rows = [["model", *(cell for name in rewards for cell in (name, "gain")), *drifts]]
    for point in points:
        cells = []
        for name in rewards:
            rate = name == "exact"
            mean = point.rewards[name].mean
            cells.append(words.percent(mean) if rate else words.number(mean))
            cells.append("-" if point.name == reference else words.difference(point.gains[name], rate=rate)[0])
        drift_cells = [words.number(point.drift[name].mean) for name in drifts]
        rows.append([point.name + (" (reference)" if point.name == reference else ""), *cells, *drift_cells])
    return aligned(rows)


def as_csv(points: Sequence[Point]) -> str:
    """One line for each model; of every estimate its mean, the ends of its interval, and n."""
    file = io.StringIO()
    lines = [{"model": point.name, "step": point.step, "folder": point.folder} | _flat(point) for point in points]
    writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def as_json(points: Sequence[Point], reference: str, encoder: str | None) -> dict[str, Any]:
    """All of it, as `sweep.json` holds it."""
    return {"reference": reference, "encoder": encoder, "models": [asdict(point) for point in points]}


def _once(encode: drift.Encode) -> drift.Encode:
    """The same, for files that come again: the reference is held against every model."""
    seen: dict[Path, Any] = {}

    def remembered(files: Sequence[Path]) -> Any:
        new = [file for file in files if file not in seen]
        if new:
            seen.update(zip(new, np.asarray(encode(new)), strict=True))
        return np.stack([seen[file] for file in files])

    return remembered


def _values(run: BenchRun, measure: str) -> Any:
    return per_prompt(run, "parts" if measure == "exact" else "scores", measure)


def _flat(point: Point) -> dict[str, float]:
    found: dict[str, float] = {}
    for group, estimates in (("", point.rewards), ("gain ", point.gains), ("drift ", point.drift)):
        for name, estimate in estimates.items():
            key = f"{group}{name}"
            interval = estimate.interval
            found |= {key: estimate.mean, f"{key} low": interval.low, f"{key} high": interval.high}
    return found | {"prompts": next(iter(point.drift.values())).n}


def write_sweep(out: Path, points: Sequence[Point], reference: str, encoder: str | None) -> tuple[Path, Path]:
    """Write `sweep.csv`, `sweep.json` and `sweep.svg` to `out`. Returns the paths of the table and the plot."""
    from diffdpo.benchmarks.sweep.plot import plot
    from diffdpo.runs import write_bytes, write_json

    table_file, plot_file = out / "sweep.csv", out / "sweep.svg"
    write_bytes(table_file, as_csv(points).encode())
    write_json(out / "sweep.json", as_json(points, reference, encoder))
    write_bytes(plot_file, plot(points, reference).encode())
    return table_file, plot_file
