"""Numbers and findings in plain words. A minus is a real one, and a range reads `low to high`."""

from __future__ import annotations

import math

from diffdpo.benchmarks.compare import Comparison, Measure
from diffdpo.benchmarks.statistics import Estimate, Interval

MINUS = "\N{MINUS SIGN}"
_MOST_DIGITS = 6
_NAMES = {"exact": "all parts (exact)", "jpeg_size": "JPEG size"}


def number(value: float) -> str:
    """A value as an axis would print it: short, at most four digits that count."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000 or abs(value) < 0.0001:
        mantissa, _, exponent = f"{value:.3e}".partition("e")
        if abs(value) >= 10_000 and abs(value) < 10_000_000:
            return f"{value / 1000:.4g}k".replace("-", MINUS)
        return f"{float(mantissa):g}e{int(exponent)}".replace("-", MINUS)
    return f"{value:.4g}".replace("-", MINUS)


def percent(value: float) -> str:
    """A rate 0..1 as a percentage."""
    return f"{100 * value:.1f}%"


def fixed(value: float, digits: int, *, sign: bool = False) -> str:
    """A value with so many decimals; one that rounds to zero has no sign."""
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        return text.removeprefix("-")
    return (f"{value:+.{digits}f}" if sign else text).replace("-", MINUS)


def digits(interval: Interval) -> int:
    """Decimals that show two digits of an interval's width."""
    width = interval.high - interval.low
    return 4 if width <= 0 else min(_MOST_DIGITS, max(0, 1 - math.floor(math.log10(width))))


def value(measure: Measure, estimate: Estimate) -> tuple[str, str]:
    """One side of a measure: its mean and its interval."""
    if measure.group == "parts":
        return percent(estimate.mean), rates(estimate.interval)
    places = digits(measure.contrast.difference.interval)
    low, high = estimate.interval.low, estimate.interval.high
    return fixed(estimate.mean, places), f"{fixed(low, places)} to {fixed(high, places)}"


def score(measure: Measure, one: float) -> str:
    """One image's score, with the decimals of the measure's mean."""
    return fixed(one, digits(measure.contrast.difference.interval))


def change(measure: Measure) -> tuple[str, str]:
    """The change of a measure and its interval, in percentage points for a rate."""
    return difference(measure.contrast.difference, rate=measure.group == "parts")


def difference(estimate: Estimate, *, rate: bool) -> tuple[str, str]:
    """A difference and its interval."""
    scale, places = (100, 1) if rate else (1, digits(estimate.interval))
    nearest = scale * min(abs(estimate.interval.low), abs(estimate.interval.high))
    while estimate.interval.excludes_zero and places < _MOST_DIGITS and round(nearest, places) == 0:
        places += 1  # an end that is not zero must not read as zero
    mean, low, high = (scale * x for x in (estimate.mean, estimate.interval.low, estimate.interval.high))
    return fixed(mean, places, sign=True), f"{fixed(low, places, sign=True)} to {fixed(high, places, sign=True)}"


def rates(interval: Interval) -> str:
    """An interval of a rate."""
    return f"{percent(interval.low)} to {percent(interval.high)}"


def p_value(value: float) -> str:
    """A p-value; tiny ones only say how tiny."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def headline(comparison: Comparison) -> tuple[str, str]:
    """What happened, in a sentence, and the numbers that back it in another."""
    measure = comparison.headline
    rate = measure.group == "parts"
    what = f"The share of images with {measure.name} right" if rate else f"The mean {measure.name} score"
    if measure.name == "exact":
        what = "Exact-checker accuracy" if comparison.suite == "shapes" else "The share of images that pass the check"
    before, after = value(measure, measure.contrast.a)[0], value(measure, measure.contrast.b)[0]
    first = {
        "up": f"{what} rose from {before} to {after}",
        "down": f"{what} fell from {before} to {after}",
        "no change": f"{what} did not move: {before} on both sides",
        "unclear": f"{what} went from {before} to {after}, which chance alone may explain",
    }[measure.verdict]
    mean, interval = change(measure)
    unit = " points" if rate else ""
    return first, f"{mean}{unit}, 95% interval {interval}, on {comparison.prompts} {comparison.title}."


def name(measure: Measure) -> str:
    """What a measure is called."""
    return _NAMES.get(measure.name, measure.name)


def distance_sentence(comparison: Comparison) -> str | None:
    """How far the images moved; None where it was not measured."""
    if comparison.distance is None:
        return None
    mean, interval = comparison.distance.mean, comparison.distance.interval
    if interval.high == 0:
        return f"No image moved, as {comparison.settings['encoder']} sees them."
    places = digits(interval)
    low, high = (fixed(end, places) for end in (interval.low, interval.high))
    return (
        f"From before to after an image moved by {fixed(mean, places)} (95% interval {low} to {high}), measured as "
        f"1 \N{MINUS SIGN} cosine in the image encoder of {comparison.settings['encoder']}."
    )


def judge_sentence(comparison: Comparison) -> str | None:
    """What the scorer that did not label says; None where there is none."""
    if comparison.judge is None:
        return None
    measure = comparison.measure(comparison.judge)
    rate = measure.contrast.wins.rate
    apart = ", which did not choose the training pairs," if any(m.labeled for m in comparison.scores) else ""
    return (
        f"{measure.name}{apart} prefers the image after in {percent(rate.mean)} of the prompts "
        f"(95% interval {rates(rate.interval)}; ties count half)."
    )
