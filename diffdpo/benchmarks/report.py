"""A comparison as one page that opens from the disk and needs nothing else, and as numbers.

`report.html` carries its style, images and drawings within; `report.json` holds every number the page shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffdpo.benchmarks import bars, charts, words
from diffdpo.benchmarks.compare import Comparison, Effect
from diffdpo.benchmarks.curves import Chart, read_charts
from diffdpo.benchmarks.embed import data_uri, is_small
from diffdpo.benchmarks.look import MEANING
from diffdpo.benchmarks.results import BenchRun
from diffdpo.benchmarks.settings import Setting, flat, side_by_side
from diffdpo.runs import MANIFEST, read_manifest, write_bytes, write_json

HTML = "report.html"
JSON = "report.json"
N_RANDOM = 6
_RANDOM_SEED = 0


@dataclass(frozen=True)
class Card:
    """One prompt's two images and what was found in them."""

    index: int
    prompt: str
    images: tuple[str, str]
    """Data URIs, before and after."""
    parts: tuple[tuple[str, bool, bool], ...]
    scores: tuple[tuple[str, str, str], ...]


def write_report(
    out: str | Path,
    comparison: Comparison,
    run_a: BenchRun,
    run_b: BenchRun,
    training_run: str | Path | None = None,
) -> Path:
    """Write `report.html` and `report.json` into `out`. Returns the path of the page.

    Args:
        training_run: folder of the run that made B, for its curves and settings.

    Raises:
        UserError: an image or the training metrics cannot be read.
    """
    curves = () if training_run is None else read_charts(training_run)
    examples = _examples(comparison)
    page = _render(comparison, run_a, run_b, curves, examples, training_run)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / JSON, _numbers(comparison, run_a, run_b, curves, examples))
    write_bytes(out / HTML, page.encode())
    return out / HTML


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """A comparison as JSON values; measures by name."""
    result = asdict(comparison)
    for group in ("parts", "scores", "look"):
        result[group] = {measure["name"]: measure for measure in result[group]}
    return result


def _examples(comparison: Comparison) -> dict[str, list[int]]:
    """Prompt numbers under the heading they are shown under; random ones are fixed by the number of prompts."""
    rng = np.random.default_rng(_RANDOM_SEED)
    drawn = rng.permutation(comparison.prompts)[:N_RANDOM]
    return {
        "gained": [move.index for move in comparison.gained],
        "lost": [move.index for move in comparison.lost],
        "random": sorted(drawn.tolist()),
    }


def _numbers(
    comparison: Comparison,
    a: BenchRun,
    b: BenchRun,
    curves: Sequence[Chart],
    examples: Mapping[str, list[int]],
) -> dict[str, Any]:
    def example(index: int) -> dict[str, Any]:
        return {
            "index": index,
            "prompt": a.rows[index].prompt,
            "before": _row(a, index),
            "after": _row(b, index),
        }

    return {
        "headline": " — ".join(words.headline(comparison)),
        "comparison": comparison_json(comparison),
        "examples": {kind: [example(index) for index in indices] for kind, indices in examples.items()},
        "training": [asdict(chart) for chart in curves],
        "runs": {side: {"manifest": run.manifest, "summary": run.summary} for side, run in _sides(a, b)},
    }


def _row(run: BenchRun, index: int) -> dict[str, Any]:
    row = run.rows[index]
    return {"seed": row.seed, "image": row.image, "scores": row.scores, "parts": row.parts, "look": row.look}


def _sides(a: BenchRun, b: BenchRun) -> tuple[tuple[str, BenchRun], tuple[str, BenchRun]]:
    return ("before", a), ("after", b)


def _render(
    comparison: Comparison,
    a: BenchRun,
    b: BenchRun,
    curves: Sequence[Chart],
    examples: Mapping[str, list[int]],
    training_run: str | Path | None,
) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    cards = {kind: [_card(comparison, a, b, index) for index in indices] for kind, indices in examples.items()}
    return environment.get_template("report.html.jinja").render(
        c=comparison,
        labeled=any(measure.labeled for measure in comparison.scores),
        headline=words.headline(comparison),
        judge=words.judge_sentence(comparison),
        words=words,
        part_bar=bars.difference_bars(m.contrast.difference for m in comparison.parts),
        win_bar=bars.win_bar,
        effects=_effects(comparison),
        effect_bar=bars.difference_bars(e.difference for e in _effects(comparison)),
        look_meaning=MEANING,
        hero=next((cards[kind][0] for kind in ("gained", "lost", "random") if cards[kind]), None),
        cards=cards,
        small=is_small(a.image(0)),
        curves=[(chart, charts.line_chart(chart)) for chart in curves],
        settings=side_by_side(a, b),
        training_settings=_training_settings(training_run),
    )


def _card(comparison: Comparison, a: BenchRun, b: BenchRun, index: int) -> Card:
    before, after = a.rows[index], b.rows[index]
    names = [name for name in before.parts or {} if name in (after.parts or {})]
    return Card(
        index=index,
        prompt=before.prompt,
        images=(data_uri(a.image(index)), data_uri(b.image(index))),
        parts=tuple((name, (before.parts or {})[name], (after.parts or {})[name]) for name in names),
        scores=tuple(
            (m.name, words.score(m, before.scores[m.name]), words.score(m, after.scores[m.name]))
            for m in comparison.scores
        ),
    )


def _training_settings(training_run: str | Path | None) -> list[Setting]:
    if training_run is None or not (Path(training_run) / MANIFEST).is_file():
        return []
    return [Setting(key, value, value) for key, value in flat(read_manifest(training_run)["settings"]).items()]


def _effects(comparison: Comparison) -> list[Effect]:
    """Those of the measure that the headline is about."""
    names = {effect.measure for effect in comparison.effects}
    shown = "exact" if "exact" in names else comparison.judge
    return [effect for effect in comparison.effects if effect.measure == shown]
