"""Small SVG drawings for the report. They carry classes and no colours: the page's style sheet has those, for both
its schemes. Written by hand, since a plot library's output cannot follow the reader's scheme or type.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape

from diffdpo.benchmarks.curves import Chart
from diffdpo.benchmarks.words import number

_WIDTH, _HEIGHT = 440, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 10, 12, 38
_OUTLIERS = 0.5
"""Percent of raw points at either end that may lie outside the chart, so that one spike does not flatten it."""


class Axis:
    """A linear map from values to pixels."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 2)


def line_chart(chart: Chart) -> Markup:
    """A line chart: the raw points thin, the smoothed ones strong, a reference line where there is one."""
    x, y = _axes(chart)
    clip = "clip-" + "".join(filter(str.isalpha, chart.title)).lower()
    above: list[str] = []
    parts = [_grid(x, y), f'<clipPath id="{clip}"><rect x="{_LEFT}" y="{_TOP}" ']
    parts.append(f'width="{_WIDTH - _LEFT - _RIGHT}" height="{_HEIGHT - _TOP - _BOTTOM}"/></clipPath>')
    if chart.reference is not None and y.low <= chart.reference[0] <= y.high:
        value, name = chart.reference
        parts.append(_rule(y(value)))
        above.append(_name(y(value), name))
    for place, series in enumerate(chart.series):
        if series.values != series.smoothed:
            parts.append(_line(series.steps, series.values, x, y, f"raw s{place}", clip))
        parts.append(_line(series.steps, series.smoothed, x, y, f"line s{place}", clip))
        if len(series.steps) <= 40 and series.values == series.smoothed:
            dots = zip(series.steps, series.values, strict=True)
            parts += [f'<circle class="dot s{place}" cx="{x(s)}" cy="{y(v)}" r="2.6"/>' for s, v in dots]
    size = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(describe(chart))}"'
    return Markup(f'<svg class="chart" {size}>{"".join(parts + above)}</svg>')


def describe(chart: Chart) -> str:
    """The chart in words, for who cannot see it."""
    ends = [
        f"{series.label} from {number(series.smoothed[0])} to {number(series.smoothed[-1])}" for series in chart.series
    ]
    steps = f"steps {number(chart.series[0].steps[0])} to {number(chart.series[0].steps[-1])}"
    return f"{chart.title}, {steps}: {'; '.join(ends)}"


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round values within [low, high], about so many: steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _axes(chart: Chart) -> tuple[Axis, Axis]:
    steps = [step for series in chart.series for step in series.steps]
    values = [value for series in chart.series for value in series.smoothed]
    for series in chart.series:
        values += np.percentile(series.values, [_OUTLIERS, 100 - _OUTLIERS]).tolist()
    low, high = min(values), max(values)
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    left, right = min(steps), max(steps)
    if left == right:
        left, right = left - 1, right + 1
    return (
        Axis(left, right, _LEFT, _WIDTH - _RIGHT),
        Axis(low - margin, high + margin, _HEIGHT - _BOTTOM, _TOP),
    )


def _grid(x: Axis, y: Axis) -> str:
    parts = []
    for value in ticks(y.low, y.high):
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value)}" y2="{y(value)}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 7}" y="{y(value) + 4}" text-anchor="end">{number(value)}</text>')
    base = _HEIGHT - _BOTTOM
    parts.append(f'<line class="base" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>')
    for value in ticks(x.low, x.high):
        parts.append(f'<text class="tick" x="{x(value)}" y="{base + 16}" text-anchor="middle">{number(value)}</text>')
    center = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text class="tick" x="{center}" y="{_HEIGHT - 5}" text-anchor="middle">step</text>')
    return "".join(parts)


def _rule(height: float) -> str:
    return f'<line class="reference" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{height}" y2="{height}"/>'


def _name(height: float, name: str) -> str:
    place = f'x="{_WIDTH - _RIGHT - 2}" y="{height - 5}" text-anchor="end"'
    return f'<text class="tick name" {place}>{escape(name)}</text>'


def _line(steps: Sequence[float], values: Sequence[float], x: Axis, y: Axis, kind: str, clip: str) -> str:
    points = " ".join(f"{x(step)},{y(value)}" for step, value in zip(steps, values, strict=True))
    return f'<polyline class="{kind}" points="{points}" clip-path="url(#{clip})"/>'
