"""Two runs on the same prompts, compared prompt by prompt. A is before, B is after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffdpo.benchmarks import drift, statistics
from diffdpo.benchmarks.drift import Sides
from diffdpo.benchmarks.effects import Effect, effects
from diffdpo.benchmarks.encoder import ImageEncoder
from diffdpo.benchmarks.moves import Move, moves
from diffdpo.benchmarks.pairing import check_labelers, check_same, per_prompt, prompt_rows, warnings
from diffdpo.benchmarks.results import BenchRun
from diffdpo.benchmarks.statistics import Contrast, Estimate, Verdict
from diffdpo.errors import UserError


@dataclass(frozen=True)
class Measure:
    """One measure on both sides."""

    name: str
    group: str
    """"parts" (rates), "scores" or "drift"."""
    contrast: Contrast
    p_corrected: float
    """The sign test's p-value after Holm's correction over the measures of the group."""
    labeled: bool = False
    """Whether this scorer chose the training pairs, which makes its own gain no evidence."""

    @property
    def verdict(self) -> Verdict:
        """Whether B is better. Of a drift, which is none, whether there is any: its interval alone decides."""
        return statistics.verdict(self.contrast.difference, None if self.group == "drift" else self.p_corrected)


@dataclass(frozen=True)
class Comparison:
    """All that `compare` finds. `settings` says how intervals were drawn."""

    suite: str
    title: str
    prompts: int
    parts: tuple[Measure, ...]
    scores: tuple[Measure, ...]
    drift: tuple[Measure, ...]
    distance: Estimate | None
    """How far the images moved, in the image encoder; None without one."""
    judge: str | None
    """The first scorer that did not label the training data."""
    effects: tuple[Effect, ...]
    gained: tuple[Move, ...]
    lost: tuple[Move, ...]
    warnings: tuple[str, ...]
    settings: Mapping[str, Any]

    def measure(self, name: str) -> Measure:
        """The part, scorer or drift of that name."""
        return next(m for m in (*self.parts, *self.scores, *self.drift) if m.name == name)

    @property
    def headline(self) -> Measure:
        """The measure that speaks for the whole: the exact check, else the judge, else a scorer that labelled."""
        exact = next((measure for measure in self.parts if measure.name == "exact"), None)
        return exact or next((m for m in self.scores if m.name == self.judge), (*self.scores, *self.parts)[0])

    @property
    def headline_effects(self) -> list[Effect]:
        """The headline's measure within each category."""
        return [effect for effect in self.effects if effect.measure == self.headline.name]


def compare(
    a: BenchRun,
    b: BenchRun,
    *,
    labeled_by: Sequence[str] = (),
    encoder: ImageEncoder | None = None,
    seed: int = 0,
    resamples: int = statistics.RESAMPLES,
) -> Comparison:
    """Compare two runs of one suite.

    Args:
        labeled_by: scorers that chose the pairs B was trained on.
        encoder: what diversity is measured in; without one it is left out.

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

    def measures(group: str, sides: Mapping[str, Sides]) -> tuple[Measure, ...]:
        found = [statistics.contrast(*sides[name], **options) for name in sides]
        corrected = statistics.holm([contrast.wins.p_value for contrast in found])
        together = zip(sides, found, corrected, strict=True)
        return tuple(Measure(name, group, contrast, p, name in labeled_by) for name, contrast, p in together)

    judged = {
        group: measures(group, {name: (per_prompt(a, group, name), per_prompt(b, group, name)) for name in names})
        for group, names in (("parts", parts), ("scores", scorers))
    }
    drifted, distances = drift.sides(a, b, encoder)
    gained, lost = moves(a, b, judge or next(iter(scorers), None))
    return Comparison(
        suite=a.suite,
        title=str(a.summary["title"]),
        prompts=len(prompt_rows(a)),
        **judged,
        drift=measures("drift", drifted),
        distance=None if distances is None else statistics.mean_estimate(distances, **options),
        judge=judge,
        effects=tuple(effects(a, b, [*(["exact"] if "exact" in parts else []), *scorers], options)),
        gained=gained,
        lost=lost,
        warnings=(*warnings(a, b, labeled_by), *_disagreement([*judged["parts"], *judged["scores"]])),
        settings={
            "confidence": statistics.CONFIDENCE,
            **options,
            "encoder": None if encoder is None else encoder.name,
        },
    )


def _disagreement(measures: Sequence[Measure]) -> list[str]:
    """A warning where a scorer rose while another one, or the exact check, fell."""
    judges = [measure for measure in measures if measure.group == "scores" or measure.name == "exact"]
    rose, fell = ([m.name for m in judges if m.verdict == verdict] for verdict in ("up", "down"))
    if not rose or not fell:
        return []
    return [
        f"{_listed(rose)} rose while {_listed(fell)} fell: a model can learn to please one judge at the cost of what "
        f"it should draw (reward hacking). Look at the images before you believe {_listed(rose)}."
    ]


def _listed(names: Sequence[str]) -> str:
    names = ["the exact check" if name == "exact" else name for name in names]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
