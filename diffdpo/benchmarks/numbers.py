"""A comparison as data: JSON, and CSV tables of every number that a page, a plot or a terminal shows of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffdpo.benchmarks import statistics
from diffdpo.benchmarks.compare import Comparison, Measure
from diffdpo.benchmarks.curves import Chart
from diffdpo.benchmarks.effects import Effect
from diffdpo.benchmarks.results import BenchRun, Row
from diffdpo.benchmarks.statistics import Estimate
from diffdpo.runs import write_bytes

COMPARISON, REPORT = "comparison.json", "report.json"
"""What `diffdpo compare --out` and `diffdpo report` write."""
MEASURES, CATEGORIES, PROMPTS, TRAINING = "measures.csv", "categories.csv", "prompts.csv", "training.csv"


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """A comparison as JSON values; measures by name, each with its verdict."""
    result = asdict(comparison)
    for group in ("parts", "scores", "drift"):
        measures: Sequence[Measure] = getattr(comparison, group)
        result[group] = {measure.name: {**asdict(measure), "verdict": measure.verdict} for measure in measures}
    return result


def tables(comparison: Comparison, a: BenchRun, b: BenchRun, curves: Sequence[Chart] = ()) -> dict[str, str]:
    """File name -> CSV text. Tables that would be empty are left out."""
    found = {
        MEASURES: [_measure(m) for m in (*comparison.parts, *comparison.scores, *comparison.drift)],
        CATEGORIES: [_effect(effect) for effect in comparison.effects],
        PROMPTS: [_prompt(row_a, row_b) for row_a, row_b in zip(a.rows, b.rows, strict=True)],
        TRAINING: list(_points(curves)),
    }
    return {name: _csv(rows) for name, rows in found.items() if rows}


def write_tables(
    folder: Path, comparison: Comparison, a: BenchRun, b: BenchRun, curves: Sequence[Chart] = ()
) -> dict[str, str]:
    """Write `tables` into a folder, and return them."""
    found = tables(comparison, a, b, curves)
    for name, text in found.items():
        write_bytes(folder / name, text.encode())
    return found


def _measure(measure: Measure) -> dict[str, Any]:
    found = measure.contrast
    sides = {
        "group": measure.group,
        "measure": measure.name,
        "n": found.difference.n,
        **_bounds("before", found.a),
        **_bounds("after", found.b),
        **_bounds("change", found.difference),
        "verdict": measure.verdict,
        "chose_training_pairs": measure.labeled,
    }
    if measure.group == "drift":  # which nobody wins
        return sides
    return {
        **sides,
        "wins": found.wins.wins,
        "ties": found.wins.ties,
        "losses": found.wins.losses,
        **_bounds("win_rate", found.wins.rate),
        "p": found.wins.p_value,
        "p_corrected": measure.p_corrected,
    }


def _effect(effect: Effect) -> dict[str, Any]:
    return {
        "kind": effect.kind,
        "category": effect.category,
        "measure": effect.measure,
        "n": effect.a.n,
        **_bounds("before", effect.a),
        **_bounds("after", effect.b),
        **_bounds("change", effect.difference),
        "verdict": statistics.verdict(effect.difference),
    }


def _prompt(a: Row, b: Row) -> dict[str, Any]:
    found: dict[str, Any] = {"index": a.index, "prompt": a.prompt, "seed": a.seed}
    for side, row in (("before", a), ("after", b)):
        found[f"image {side}"] = row.image
        for values in (row.parts or {}, row.scores, row.look):
            found.update({f"{name} {side}": value for name, value in values.items()})
    return found


def _points(curves: Iterable[Chart]) -> Iterable[dict[str, Any]]:
    for chart in curves:
        for series in chart.series:
            for step, value, smoothed in zip(series.steps, series.values, series.smoothed, strict=True):
                yield {"chart": chart.title, "series": series.key, "step": step, "value": value, "smoothed": smoothed}


def _bounds(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.mean, f"{name}_low": estimate.interval.low, f"{name}_high": estimate.interval.high}


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of which some lack columns; numbers in full, so that they read back to the same bits."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
