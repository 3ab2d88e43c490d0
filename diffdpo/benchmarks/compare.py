"""Two runs on the same prompts, compared prompt by prompt. A is before, B is after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diffdpo.benchmarks import registry, statistics
from diffdpo.benchmarks.pairing import check_labelers, check_same, warnings
from diffdpo.benchmarks.results import BenchRun, Row
from diffdpo.benchmarks.statistics import Contrast, Estimate
from diffdpo.errors import UserError

MIN_GROUP = 5
"""A category with fewer prompts is left out: its interval would say nothing."""
N_MOVED = 6
"""Prompts listed at either end."""


@dataclass(frozen=True)
class Measure:
    """One measure on both sides."""

    name: str
    group: str
    """"parts" (rates), "scores" or "look"."""
    contrast: Contrast
    p_corrected: float
    """The sign test's p-value after Holm's correction over the measures of the group."""
    labeled: bool = False
    """Whether this scorer chose the training pairs, which makes its own gain no evidence."""


@dataclass(frozen=True)
class Effect:
    """One measure within one category of prompts."""

    kind: str
    category: str
    measure: str
    a: Estimate
    b: Estimate
    difference: Estimate


@dataclass(frozen=True)
class Move:
    """How far one prompt moved: the change in parts that hold, if there are any, then in the judge's score."""

    index: int
    parts: int | None
    score: float | None


@dataclass(frozen=True)
class Comparison:
    """All that `compare` finds. `settings` says how intervals were drawn."""

    suite: str
    title: str
    prompts: int
    parts: tuple[Measure, ...]
    scores: tuple[Measure, ...]
    look: tuple[Measure, ...]
    judge: str | None
    """The first scorer that did not label the training data."""
    effects: tuple[Effect, ...]
    gained: tuple[Move, ...]
    lost: tuple[Move, ...]
    warnings: tuple[str, ...]
    settings: Mapping[str, Any]

    def measure(self, name: str) -> Measure:
        """The part, scorer or look of that name."""
        return next(m for m in (*self.parts, *self.scores, *self.look) if m.name == name)


def compare(
    a: BenchRun,
    b: BenchRun,
    *,
    labeled_by: Sequence[str] = (),
    seed: int = 0,
    resamples: int = statistics.RESAMPLES,
) -> Comparison:
    """Compare two runs of one suite.

    Args:
        labeled_by: scorers that chose the pairs B was trained on.

    Raises:
        UserError: the runs differ in suite, prompts or seeds, or share no measure.
    """
    check_same(a, b)
    check_labelers(labeled_by, a, b)
    scorers = [name for name in a.scorers if name in b.scorers]
    parts = [name for name in a.parts if name in b.parts]
    if not scorers and not parts:
        raise UserError(f"{a.folder} and {b.folder}: no scorer in common ({a.scorers} and {b.scorers})")
    judge = next((name for name in scorers if name not in labeled_by), None)
    options = {"seed": seed, "resamples": resamples}
    gained, lost = _moves(a, b, judge)
    return Comparison(
        suite=a.suite,
        title=str(a.summary["title"]),
        prompts=len(a.rows),
        parts=_measures("parts", parts, a, b, options),
        scores=tuple(
            replace(measure, labeled=measure.name in labeled_by)
            for measure in _measures("scores", scorers, a, b, options)
        ),
        look=_measures("look", [name for name in a.rows[0].look if name in b.rows[0].look], a, b, options),
        judge=judge,
        effects=tuple(_effects(a, b, [*(["exact"] if "exact" in parts else []), *scorers], options)),
        gained=gained,
        lost=lost,
        warnings=tuple(warnings(a, b, labeled_by)),
        settings={"confidence": statistics.CONFIDENCE, **options},
    )


def _measures(
    group: str, names: Sequence[str], a: BenchRun, b: BenchRun, options: Mapping[str, int]
) -> tuple[Measure, ...]:
    found = [statistics.contrast(a.values(group, name), b.values(group, name), **options) for name in names]
    corrected = statistics.holm([contrast.wins.p_value for contrast in found])
    together = zip(names, found, corrected, strict=True)
    return tuple(Measure(name, group, contrast, p_value) for name, contrast, p_value in together)


def _effects(a: BenchRun, b: BenchRun, names: Sequence[str], options: Mapping[str, int]) -> list[Effect]:
    if a.suite not in registry.SUITES:
        return []
    suite = registry.find(a.suite)
    groups: dict[tuple[str, str], list[int]] = {}
    for row in a.rows:
        for kind_and_category in suite.categories(row.prompt).items():
            groups.setdefault(kind_and_category, []).append(row.index)
    kinds = list(dict.fromkeys(kind for kind, _ in groups))
    effects = []
    for (kind, category), rows in sorted(groups.items(), key=lambda item: kinds.index(item[0][0])):
        for name in names if len(rows) >= MIN_GROUP else ():
            group = "parts" if name in a.parts else "scores"
            left, right = (np.asarray(run.values(group, name))[rows] for run in (a, b))
            effects.append(
                Effect(
                    kind,
                    category,
                    name,
                    statistics.mean_estimate(left, **options),
                    statistics.mean_estimate(right, **options),
                    statistics.paired_difference(left, right, **options),
                )
            )
    return effects


def _moves(a: BenchRun, b: BenchRun, judge: str | None) -> tuple[tuple[Move, ...], tuple[Move, ...]]:
    """The prompts that gained most and those that lost most, the largest move first."""
    moves = [_move(row_a, row_b, judge) for row_a, row_b in zip(a.rows, b.rows, strict=True)]
    ordered = sorted(moves, key=_size, reverse=True)
    gained = [move for move in ordered if _size(move) > (0, 0)]
    lost = [move for move in reversed(ordered) if _size(move) < (0, 0)]
    return tuple(gained[:N_MOVED]), tuple(lost[:N_MOVED])


def _move(a: Row, b: Row, judge: str | None) -> Move:
    parts = None if a.parts is None or b.parts is None else sum(b.parts.values()) - sum(a.parts.values())
    return Move(a.index, parts, None if judge is None else b.scores[judge] - a.scores[judge])


def _size(move: Move) -> tuple[float, float]:
    return (move.parts or 0, move.score or 0.0)
