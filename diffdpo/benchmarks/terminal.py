"""What else a terminal shows of a comparison: drift, where it moved, and which prompts moved most."""

from __future__ import annotations

from collections.abc import Sequence

from diffdpo.benchmarks import statistics, words
from diffdpo.benchmarks.compare import Comparison
from diffdpo.benchmarks.tables import aligned

_PROMPT = 80
"""Characters of a prompt that are shown."""


def drift_table(comparison: Comparison) -> str:
    """How the images drifted."""
    rows = [["drift", "before", "after", "change", "95% interval", ""]]
    for measure in comparison.drift:
        before, after = (words.value(measure, side)[0] for side in (measure.contrast.a, measure.contrast.b))
        rows.append([words.name(measure), before, after, *words.change(measure), measure.verdict])
    return aligned(rows)


def effects_table(comparison: Comparison) -> str:
    """The measure of the headline in each category of prompts; empty where there are none."""
    shown = comparison.headline_effects
    rate = comparison.headline.group == "parts"
    rows = [[words.name(comparison.headline), "prompts", "change", "95% interval", ""]]
    for effect in shown:
        change = words.difference(effect.difference, rate=rate)
        rows.append(
            [f"{effect.kind}: {effect.category}", str(effect.a.n), *change, statistics.verdict(effect.difference)]
        )
    return aligned(rows) if shown else ""


def moved_lines(comparison: Comparison, prompts: Sequence[str]) -> str:
    """The prompts that moved most, with their numbers; empty where none did."""
    lines = []
    for title, moves in (("gained most", comparison.gained), ("lost most", comparison.lost)):
        for place, move in enumerate(moves):
            prompt = " ".join(prompts[move.index].split())
            how = [] if move.parts is None else [f"{move.parts:+d} parts".replace("-", words.MINUS)]
            how += [] if move.score is None else [f"{move.score:+.3g}".replace("-", words.MINUS)]
            lines.append(f"{title if place == 0 else '':12}#{move.index:<5} {', '.join(how):20} {prompt[:_PROMPT]}")
    return "\n".join(lines)
