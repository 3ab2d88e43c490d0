"""Intervals drawn small, to stand beside their numbers in a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from markupsafe import Markup

from diffdpo.benchmarks.charts import Axis
from diffdpo.benchmarks.statistics import Estimate, Verdict

_WIDTH, _HEIGHT, _MARGIN = 132, 22, 6


def difference_bars(differences: Iterable[Estimate]) -> Callable[[Estimate, Verdict], Markup]:
    """Draws any of `differences` on the one axis, zero in its middle, that holds them all."""
    ends = [abs(end) for d in differences for end in (d.interval.low, d.interval.high, d.mean)]
    reach = max(ends, default=0.0) or 1.0
    return lambda difference, verdict: interval_bar(difference, verdict, low=-reach, high=reach, neutral=0.0)


def win_bar(rate: Estimate, verdict: Verdict) -> Markup:
    """Draws a win rate from 0 to 1, one half in the middle."""
    return interval_bar(rate, verdict, low=0.0, high=1.0, neutral=0.5)


def interval_bar(estimate: Estimate, verdict: Verdict, *, low: float, high: float, neutral: float) -> Markup:
    """A mean and its interval on an axis from `low` to `high`, with a mark at `neutral`, in the colour of the verdict;
    hidden from screen readers, since the cells beside it say the same."""
    x = Axis(low, high, _MARGIN, _WIDTH - _MARGIN)
    interval, middle = estimate.interval, _HEIGHT / 2
    kind = verdict if verdict in ("up", "down") else "unclear"
    size = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
    across = f'y1="{middle}" y2="{middle}"'
    return Markup(
        f'<svg class="bar {kind}" {size} aria-hidden="true">'
        f'<line class="axis" x1="{_MARGIN}" x2="{_WIDTH - _MARGIN}" {across}/>'
        f'<line class="neutral" x1="{x(neutral)}" x2="{x(neutral)}" y1="2" y2="{_HEIGHT - 2}"/>'
        f'<line class="interval" x1="{x(interval.low)}" x2="{x(interval.high)}" {across}/>'
        f'<circle class="mean" cx="{x(estimate.mean)}" cy="{middle}" r="4"/></svg>'
    )
