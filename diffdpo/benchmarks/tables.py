"""Results as short tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffdpo.benchmarks import words
from diffdpo.benchmarks.compare import Comparison


def summary_table(summary: Mapping[str, Any]) -> str:
    """The measures of one run."""
    rows = [["", "mean", "95% interval"]]
    for name, found in summary["parts"].items():
        rows.append([name, words.percent(found["mean"]), _range(found, words.percent)])
    for name, found in summary["scores"].items():
        rows.append([name, words.number(found["mean"]), _range(found, words.number)])
    return aligned(rows)


def comparison_table(comparison: Comparison) -> str:
    """The measures of two runs: what changed, and how often the second one wins."""
    rows = [["", "before", "after", "change", "95% interval", "win rate", "95% interval", "p", "", ""]]
    for measure in (*comparison.parts, *comparison.scores):
        mean, interval = words.change(measure)
        rate = measure.contrast.wins.rate
        rows.append(
            [
                measure.name,
                words.value(measure, measure.contrast.a)[0],
                words.value(measure, measure.contrast.b)[0],
                mean,
                interval,
                words.percent(rate.mean),
                words.rates(rate.interval),
                words.p_value(measure.p_corrected),
                measure.verdict,
                "(chose the training pairs)" if measure.labeled else "",
            ]
        )
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first, *others = (
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *others]).rstrip())
    return "\n".join(lines)


def _range(found: Mapping[str, float], form: Any) -> str:
    return f"{form(found['low'])} to {form(found['high'])}"
