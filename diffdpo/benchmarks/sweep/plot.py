"""A sweep as an SVG that stands by itself: for each reward a row, for each measure of drift a panel.

Up is a higher reward, sideways is drift. A model far to the side of where rewards stop rising has drifted for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from diffdpo.benchmarks.charts import Axis, ticks
from diffdpo.benchmarks.words import number

if TYPE_CHECKING:
    from diffdpo.benchmarks.statistics import Estimate
    from diffdpo.benchmarks.sweep.points import Point

WIDTH, HEIGHT = 330, 240
"""Of a panel."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 24, 14, 44
_HEAD = 30
_LABEL = 24
"""Characters of a model's name that are shown."""

_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #222 } .title { font-size: 15px; font-weight: 600 }
.tick { font-size: 10.5px; fill: #666 } .grid { stroke: #e4e4e4 } .base { stroke: #999 }
.path { fill: none; stroke: #9db4cf; stroke-width: 1.5 } .bar { stroke: #2b6cb0; stroke-width: 1.5 }
.dot { fill: #2b6cb0 } .reference { fill: #fff; stroke: #2b6cb0; stroke-width: 2 }
svg { background: #fff }
@media (prefers-color-scheme: dark) {
  svg { background: #16181c } text { fill: #e6e6e6 } .tick { fill: #a0a0a0 } .grid { stroke: #2c3036 }
  .base { stroke: #777 } .path { stroke: #46617f } .bar { stroke: #7fb2ea } .dot { fill: #7fb2ea }
  .reference { fill: #16181c; stroke: #7fb2ea }
}
"""


def plot(points: Sequence[Point], reference: str) -> str:
    """The whole picture."""
    rewards, drifts = list(points[0].rewards), list(points[0].drift)
    width, height = WIDTH * len(drifts), HEIGHT * len(rewards) + _HEAD
    panels = []
    for row, reward in enumerate(rewards):
        for column, drift in enumerate(drifts):
            place = f"translate({column * WIDTH},{_HEAD + row * HEIGHT})"
            panels.append(f'<g transform="{place}">{_panel(points, reference, reward, drift)}</g>')
    title = f"Reward against drift from {_short(reference)}"
    told = escape(f"{title}: {len(points)} models; the numbers are in sweep.csv")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{told}"><style>{_STYLE}</style>'
        f'<text class="title" x="{_LEFT}" y="20">{escape(title)}</text>{"".join(panels)}</svg>\n'
    )


def _panel(points: Sequence[Point], reference: str, reward: str, drift: str) -> str:
    across, up = [point.drift[drift] for point in points], [point.rewards[reward] for point in points]
    x = _axis([one.mean for one in across], _LEFT, WIDTH - _RIGHT)
    y = _axis([end for one in up for end in (one.interval.low, one.interval.high)], HEIGHT - _BOTTOM, _TOP)
    parts = [_grid(x, y), _names(reward, drift)]
    if any(point.step is not None for point in points):
        places = " ".join(f"{x(a.mean)},{y(b.mean)}" for a, b in zip(across, up, strict=True))
        parts.append(f'<polyline class="path" points="{places}"/>')
    for point, a, b in zip(points, across, up, strict=True):
        parts.append(_mark(point, a, b, x, y, kind="reference" if point.name == reference else "dot"))
    return "".join(parts)


def _mark(point: Point, drift: Estimate, reward: Estimate, x: Axis, y: Axis, *, kind: str) -> str:
    """A point with the interval of its reward, and above that its step, or its name on the side where there is room."""
    left, top = x(drift.mean), y(reward.mean)
    low, high = y(reward.interval.low), y(reward.interval.high)
    side = "middle" if point.step else "end" if left > WIDTH / 2 else "start"
    place = f'x="{left}" y="{high - 4}" text-anchor="{side}"'
    told = f"{point.name}: {number(reward.mean)} at {number(drift.mean)}"
    return (
        f'<line class="bar" x1="{left}" x2="{left}" y1="{low}" y2="{high}"/>'
        f'<circle class="{kind}" cx="{left}" cy="{top}" r="4"><title>{escape(told)}</title></circle>'
        f'<text class="tick" {place}>{escape(str(point.step) if point.step else _short(point.name))}</text>'
    )


def _axis(values: Sequence[float], start: float, end: float) -> Axis:
    low, high = min(values), max(values)
    margin = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return Axis(low - margin, high + margin, start, end)


def _grid(x: Axis, y: Axis) -> str:
    base = HEIGHT - _BOTTOM
    parts = []
    for value in ticks(y.low, y.high, 4):
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(value)}" y2="{y(value)}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y(value) + 4}" text-anchor="end">{number(value)}</text>')
    parts.append(f'<line class="base" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>')
    for value in ticks(x.low, x.high, 4):
        parts.append(f'<text class="tick" x="{x(value)}" y="{base + 15}" text-anchor="middle">{number(value)}</text>')
    return "".join(parts)


def _names(reward: str, drift: str) -> str:
    middle, height = (_LEFT + WIDTH - _RIGHT) / 2, (HEIGHT - _BOTTOM + _TOP) / 2
    across = drift if drift == "distance" else f"{drift}, change"
    return (
        f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle">{escape(across)}</text>'
        f'<text transform="translate(16,{height}) rotate(-90)" text-anchor="middle">{escape(reward)}</text>'
    )


def _short(name: str) -> str:
    """A model's last name: where it lies says nothing in a picture."""
    last = Path(name).name or name
    return last if len(last) <= _LABEL else last[: _LABEL - 1] + "\N{HORIZONTAL ELLIPSIS}"
