"""The frontier as one SVG that stands by itself: reward against KL, a line per method, intervals as whiskers."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from diffdpo.benchmarks.charts import Axis, ticks
from diffdpo.benchmarks.frontier.points import Point
from diffdpo.benchmarks.words import number

_WIDTH, _HEIGHT = 720, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 170, 16, 48
_COLOURS = ("#4d4d4d", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Told apart by those who see few colours, too (Okabe and Ito 2008)."""
_STYLE = (
    "text{font:12px sans-serif;fill:#333}.grid{stroke:#ddd}.base{stroke:#888}"
    ".whisker{stroke-width:1;opacity:.55}polyline{fill:none;stroke-width:1.6;opacity:.8}"
)


def frontier_plot(found: Sequence[Point], reward: str = "reward") -> str:
    """Points of one method are joined in the order of their KL.

    Args:
        reward: what the upright axis is called.
    """
    methods = list(dict.fromkeys(one.method for one in found))
    x, y = _axes(found)
    parts = [_grid(x, y, reward)]
    for place, method in enumerate(methods):
        own = sorted((one for one in found if one.method == method), key=lambda one: one.kl.mean)
        parts.append(_series(own, x, y, _COLOURS[place % len(_COLOURS)]))
        parts.append(_key(place, method))
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(_told(found))}">'
    return f'{head}<style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'


def _told(found: Sequence[Point]) -> str:
    """For who cannot see it."""
    each = [f"{one.method} {one.setting}: {number(one.reward.mean)} at {number(one.kl.mean)}" for one in found]
    return f"Reward against KL in nats. {'; '.join(each)}"


def _axes(found: Sequence[Point]) -> tuple[Axis, Axis]:
    low = min(one.reward.interval.low for one in found)
    high = max(one.reward.interval.high for one in found)
    margin = (high - low) * 0.06 or 1.0
    far = max(one.kl.interval.high for one in found) * 1.05 or 1.0
    return (
        Axis(0.0, far, _LEFT, _WIDTH - _RIGHT),
        Axis(low - margin, high + margin, _HEIGHT - _BOTTOM, _TOP),
    )


def _grid(x: Axis, y: Axis, reward: str) -> str:
    right, base = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for value in ticks(y.low, y.high):
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y(value)}" y2="{y(value)}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y(value) + 4}" text-anchor="end">{number(value)}</text>')
    for value in ticks(x.low, x.high):
        parts.append(f'<line class="grid" y1="{_TOP}" y2="{base}" x1="{x(value)}" x2="{x(value)}"/>')
        parts.append(f'<text x="{x(value)}" y="{base + 18}" text-anchor="middle">{number(value)}</text>')
    parts.append(f'<line class="base" x1="{_LEFT}" x2="{right}" y1="{base}" y2="{base}"/>')
    middle = (_LEFT + right) / 2
    parts.append(
        f'<text x="{middle}" y="{_HEIGHT - 10}" text-anchor="middle">KL to the model before tuning, nats</text>'
    )
    upright = f'transform="rotate(-90 14 {(_TOP + base) / 2})" text-anchor="middle"'
    parts.append(f'<text x="14" y="{(_TOP + base) / 2}" {upright}>{escape(reward)}</text>')
    return "".join(parts)


def _series(own: Sequence[Point], x: Axis, y: Axis, colour: str) -> str:
    line = " ".join(f"{x(one.kl.mean)},{y(one.reward.mean)}" for one in own)
    parts = [f'<polyline points="{line}" stroke="{colour}"/>']
    for one in own:
        across, up = x(one.kl.mean), y(one.reward.mean)
        ends = one.reward.interval, one.kl.interval
        vertical = f'x1="{across}" x2="{across}" y1="{y(ends[0].low)}" y2="{y(ends[0].high)}"'
        level = f'x1="{x(max(0.0, ends[1].low))}" x2="{x(ends[1].high)}" y1="{up}" y2="{up}"'
        parts += [f'<line class="whisker" stroke="{colour}" {place}/>' for place in (vertical, level)]
        label = escape(f"{one.method} {one.setting}")
        parts.append(f'<circle cx="{across}" cy="{up}" r="4" fill="{colour}"><title>{label}</title></circle>')
    return "".join(parts)


def _key(place: int, method: str) -> Markup:
    left, height = _WIDTH - _RIGHT + 18, _TOP + 14 + 20 * place
    colour = _COLOURS[place % len(_COLOURS)]
    circle = Markup('<circle cx="{}" cy="{}" r="4" fill="{}"/>').format(left, height - 4, colour)
    return circle + Markup('<text x="{}" y="{}">{}</text>').format(left + 10, height, method)
