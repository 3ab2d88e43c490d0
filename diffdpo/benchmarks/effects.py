"""Where two runs differ: each measure within each category of prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffdpo.benchmarks import statistics
from diffdpo.benchmarks.pairing import per_prompt, prompt_rows
from diffdpo.benchmarks.results import BenchRun
from diffdpo.benchmarks.statistics import Estimate

MIN_GROUP = 5
"""A category with fewer prompts is left out: its interval would say nothing."""


@dataclass(frozen=True)
class Effect:
    """One measure within one category of prompts."""

    kind: str
    category: str
    measure: str
    a: Estimate
    b: Estimate
    difference: Estimate


def effects(a: BenchRun, b: BenchRun, names: Sequence[str], options: Mapping[str, int]) -> list[Effect]:
    """The effect on each of `names`, kind by kind.

    Args:
        options: `seed` and `resamples` of the intervals.
    """
    found = []
    for (kind, category), prompts in _groups(a).items():
        for name in names if len(prompts) >= MIN_GROUP else ():
            group = "parts" if name in a.parts else "scores"
            left, right = (per_prompt(run, group, name)[prompts] for run in (a, b))
            found.append(
                Effect(
                    kind,
                    category,
                    name,
                    statistics.mean_estimate(left, **options),
                    statistics.mean_estimate(right, **options),
                    statistics.paired_difference(left, right, **options),
                )
            )
    return found


def _groups(run: BenchRun) -> dict[tuple[str, str], list[int]]:
    """Kind and category -> the numbers of its prompts; the kinds in the order they come in."""
    groups: dict[tuple[str, str], list[int]] = {}
    for number, row in enumerate(prompt_rows(run)):
        for kind_and_category in row.categories.items():
            groups.setdefault(kind_and_category, []).append(number)
    kinds = list(dict.fromkeys(kind for kind, _ in groups))
    return dict(sorted(groups.items(), key=lambda item: kinds.index(item[0][0])))
