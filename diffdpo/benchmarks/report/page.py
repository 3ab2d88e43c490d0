"""A comparison as one page that opens from the disk and needs nothing else, as numbers, and as a model card.

`report.html` carries its style, images, drawings and tables within; `report.json` holds every number the page shows;
the same tables lie beside it as CSV (`numbers`), and `model_card.md` says it in words.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffdpo.benchmarks import charts, drift, statistics, words
from diffdpo.benchmarks.compare import Comparison
from diffdpo.benchmarks.curves import Chart, read_charts
from diffdpo.benchmarks.numbers import PROMPTS, REPORT, comparison_json, write_tables
from diffdpo.benchmarks.pairing import images_per_prompt
from diffdpo.benchmarks.report import bars, card, examples
from diffdpo.benchmarks.report.embed import is_small
from diffdpo.benchmarks.results import BenchRun
from diffdpo.benchmarks.settings import Setting, flat, side_by_side
from diffdpo.runs import MANIFEST, read_manifest, write_bytes, write_json

HTML = "report.html"
JSON = REPORT
CARD = card.FILE


def write_report(
    out: str | Path,
    comparison: Comparison,
    run_a: BenchRun,
    run_b: BenchRun,
    training_run: str | Path | None = None,
    training: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Write the page, its numbers and the model card into `out`. Returns the path of the page.

    Args:
        training_run: folder of the run that made B, for its curves and settings.
        training: what the card says of that run: a heading -> lines of Markdown.

    Raises:
        UserError: an image or the training metrics cannot be read.
    """
    curves = () if training_run is None else read_charts(training_run)
    chosen = examples.choose(comparison, len(run_a.rows))
    out = Path(out)
    shown = {
        kind: [examples.card(comparison, run_a, run_b, index) for index in indices] for kind, indices in chosen.items()
    }
    out.mkdir(parents=True, exist_ok=True)
    files = write_tables(out, comparison, run_a, run_b, curves)
    page = _render(comparison, run_a, run_b, curves, shown, files, training_run)
    write_json(out / JSON, _numbers(comparison, run_a, run_b, curves, chosen))
    write_bytes(out / CARD, card.card(comparison, run_b, training or {}).encode())
    write_bytes(out / HTML, page.encode())
    return out / HTML


def _numbers(
    comparison: Comparison, a: BenchRun, b: BenchRun, curves: Sequence[Chart], chosen: Mapping[str, list[int]]
) -> dict[str, Any]:
    def example(index: int) -> dict[str, Any]:
        prompt = a.rows[index].prompt
        return {"index": index, "prompt": prompt, "before": _row(a, index), "after": _row(b, index)}

    return {
        "headline": " — ".join(words.headline(comparison)),
        "comparison": comparison_json(comparison),
        "examples": {kind: [example(index) for index in indices] for kind, indices in chosen.items()},
        "training": [asdict(chart) for chart in curves],
        "runs": {
            side: {"manifest": run.manifest, "summary": run.summary} for side, run in (("before", a), ("after", b))
        },
    }


def _row(run: BenchRun, index: int) -> dict[str, Any]:
    row = run.rows[index]
    return {"seed": row.seed, "image": row.image, "scores": row.scores, "parts": row.parts, "look": row.look}


def _render(
    comparison: Comparison,
    a: BenchRun,
    b: BenchRun,
    curves: Sequence[Chart],
    cards: Mapping[str, Sequence[examples.Card]],
    files: Mapping[str, str],
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
    effects = comparison.headline_effects
    return environment.get_template("report.html.jinja").render(
        c=comparison,
        exact=bool(comparison.parts) and comparison.suite == "shapes",
        several=images_per_prompt(a),
        drawn=all(run.rows[0].seed is not None for run in (a, b)),
        labeled=any(measure.labeled for measure in comparison.scores),
        headline=words.headline(comparison),
        judge=words.judge_sentence(comparison),
        distance=words.distance_sentence(comparison),
        words=words,
        verdict=statistics.verdict,
        part_bar=bars.difference_bars(m.contrast.difference for m in comparison.parts),
        win_bar=bars.win_bar,
        effects=effects,
        rate=comparison.headline.group == "parts",
        effect_bar=bars.difference_bars(e.difference for e in effects),
        drift_meaning=drift.MEANING,
        hero=next((cards[kind][0] for kind in ("gained", "lost", "random") if cards[kind]), None),
        cards=cards,
        small=is_small(a.image(0)),
        curves=[(chart, charts.line_chart(chart)) for chart in curves],
        # Every prompt's values are a file beside the page: within it they would outweigh all the rest.
        downloads={name: _data_uri(text) for name, text in files.items() if name != PROMPTS},
        settings=side_by_side(a, b),
        training_settings=_training_settings(training_run),
    )


def _data_uri(text: str) -> str:
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"


def _training_settings(training_run: str | Path | None) -> list[Setting]:
    if training_run is None or not (Path(training_run) / MANIFEST).is_file():
        return []
    return [Setting(key, value, value) for key, value in flat(read_manifest(training_run)["settings"]).items()]
