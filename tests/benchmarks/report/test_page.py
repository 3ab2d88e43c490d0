from __future__ import annotations

import base64
import csv
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from diffdpo.benchmarks import words
from diffdpo.benchmarks.charts import line_chart, ticks
from diffdpo.benchmarks.compare import Comparison, compare
from diffdpo.benchmarks.curves import Chart, Series, read_charts, smooth
from diffdpo.benchmarks.report.page import write_report
from diffdpo.benchmarks.results import BenchRun
from diffdpo.errors import UserError

VOID = {"meta", "img", "input", "br", "link", "hr"}


class Page(HTMLParser):
    """Collects the page's text and tags, and fails where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="session")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    rows = [
        {
            "step": step,
            "loss": math.log(2) - step / 1000,
            "error/chosen": 0.1,
            "error/rejected": 0.1 + step / 500,
        }
        for step in range(60)
    ]
    rows += [
        {"step": 30, "eval/accuracy": 0.6},
        {"step": 59, "loss": 0.5},
        {"step": 60, "loss": float("nan")},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 6')
    return folder


@pytest.fixture(scope="session")
def comparison(before: BenchRun, after: BenchRun) -> Comparison:
    return compare(before, after, labeled_by=["bright"], resamples=1000)


@pytest.fixture(scope="session")
def written(
    comparison: Comparison,
    before: BenchRun,
    after: BenchRun,
    training: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    return write_report(tmp_path_factory.mktemp("report"), comparison, before, after, training)


@pytest.fixture(scope="session")
def page(written: Path) -> Page:
    return Page(written.read_text(encoding="utf-8"))


def test_page_needs_nothing_else(written: Path, page: Page) -> None:
    assert not re.search(r"https?://|@import|url\((?!#)", written.read_text(encoding="utf-8"))
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object")
        if tag == "a" and not (attributes["href"] or "").startswith("#"):
            assert (attributes["href"] or "").startswith("data:text/csv;")
            assert attributes["download"]
        assert "srcset" not in attributes
        if "src" in attributes:
            assert tag == "img"
            assert (attributes["src"] or "").startswith("data:image/png;base64,")


def test_page_holds_every_number_of_its_tables(comparison: Comparison, page: Page) -> None:
    for measure in (*comparison.parts, *comparison.scores, *comparison.drift):
        shown = [
            *words.value(measure, measure.contrast.a),
            *words.value(measure, measure.contrast.b),
            *words.change(measure),
        ]
        assert [text for text in shown if text not in page.text] == []
    for measure in comparison.scores:
        assert words.rates(measure.contrast.wins.rate.interval) in page.text
    for warning in comparison.warnings:
        assert warning in page.text


def test_page_is_accessible(page: Page) -> None:
    identities = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identities) == len(set(identities))
    for tag, attributes in page.tags:
        if tag == "img":
            assert attributes.get("alt")
        if tag == "svg":
            assert attributes.get("aria-hidden") == "true" or attributes.get("aria-label")
        if tag == "a" and "download" not in attributes:
            assert (attributes["href"] or "").removeprefix("#") in identities
        if tag == "input":
            assert attributes.get("aria-label")


def test_headline_and_numbers_agree(written: Path, comparison: Comparison, page: Page) -> None:
    exact = comparison.measure("exact").contrast
    first, backing = words.headline(comparison)
    rose = f"rose from {words.percent(exact.a.mean)} to {words.percent(exact.b.mean)}"
    assert first == f"Exact-checker accuracy {rose}"
    assert first in page.text
    assert backing in page.text
    numbers: dict[str, Any] = json.loads(written.with_name("report.json").read_text(encoding="utf-8"))
    assert numbers["comparison"]["parts"]["exact"]["contrast"]["difference"]["mean"] == exact.difference.mean
    loss = next(chart for chart in numbers["training"] if chart["title"] == "Loss")["series"][0]
    assert len(loss["steps"]) == len(loss["values"]) == len(loss["smoothed"]) == 60
    assert loss["values"][-1] == 0.5  # the later row of a repeated step
    assert numbers["examples"]["random"][0]["before"]["parts"].keys() >= {"exact"}


def test_no_change_and_escaping(before: BenchRun, tmp_path: Path) -> None:
    same = compare(before, before, resamples=100)
    assert "did not move" in words.headline(same)[0]
    rows = tuple(type(row)(**{**vars(row), "prompt": f"<script>{row.prompt}"}) for row in before.rows)
    odd = type(before)(before.folder, before.manifest, rows, before.summary)
    page = Page(write_report(tmp_path, same, odd, odd).read_text(encoding="utf-8"))
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "No prompt moved." in page.text
    assert "ained most" not in page.text
    assert "ost most" not in page.text
    assert (tmp_path / "model_card.md").read_text(encoding="utf-8").count("no change") == len(same.parts) + len(
        same.scores
    ) + len(same.drift) + len(same.headline_effects)


def test_charts(training: Path) -> None:
    titles = [chart.title for chart in read_charts(training)]
    assert titles == ["Loss", "Pairs ranked right", "Denoising error"]
    drawn = line_chart(Chart('A <b> & "c"', "", (Series("k", "k", (3.0,), (0.0,), (0.0,)),)))
    assert "<b>" not in drawn
    assert "NaN" not in drawn


def test_metrics_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.jsonl: no such file"):
        read_charts(tmp_path)
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1\n{"step": 2, "loss": 1}\n')
    with pytest.raises(UserError, match="row 0: torn"):
        read_charts(tmp_path)
    path.write_text('{"loss": 1}\n')
    with pytest.raises(UserError, match="row 0: has no step"):
        read_charts(tmp_path)
    path.write_text('{"step": 1, "tokens": 2}\n')
    with pytest.raises(UserError, match="none of the known metrics"):
        read_charts(tmp_path)


def test_smoothing_keeps_a_constant_and_the_length() -> None:
    assert smooth([2.0] * 100) == pytest.approx([2.0] * 100)
    assert smooth([1.0, 5.0]).tolist() == [1.0, 5.0]
    line = smooth([float(x) for x in range(200)])
    assert line[100] == pytest.approx(100)  # centred: no lag


def test_numbers_in_words() -> None:
    assert words.number(-0.000012) == "−1.2e−5"
    assert words.number(12500) == "12.5k"
    assert words.number(0.693147) == "0.6931"
    assert words.fixed(-0.001, 2, sign=True) == "0.00"
    assert words.fixed(1.25, 1, sign=True) == "+1.2"
    assert words.p_value(0.0002) == "< 0.001"
    assert ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(-0.3, 0.62) == [-0.2, 0.0, 0.2, 0.4, 0.6]


def test_tables_hold_the_numbers_to_the_bit(
    written: Path, comparison: Comparison, before: BenchRun, after: BenchRun, page: Page
) -> None:
    def rows(name: str) -> list[dict[str, str]]:
        with (written.parent / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    measures = {row["measure"]: row for row in rows("measures.csv")}
    for measure in (*comparison.parts, *comparison.scores, *comparison.drift):
        row, found = measures[measure.name], measure.contrast.difference
        interval = found.interval
        assert [float(row[key]) for key in ("change", "change_low", "change_high")] == [
            found.mean,
            interval.low,
            interval.high,
        ]
        assert row["verdict"] == measure.verdict
    assert len(rows("categories.csv")) == len(comparison.effects)
    prompts = rows("prompts.csv")
    assert [row["prompt"] for row in prompts] == before.prompts
    assert [float(row["bright after"]) for row in prompts] == after.values("scores", "bright")
    assert {row["series"] for row in rows("training.csv")} >= {"loss", "error/chosen"}
    downloads = {a["download"]: a["href"] or "" for tag, a in page.tags if tag == "a" and "download" in a}
    assert downloads.keys() == {"measures.csv", "categories.csv", "training.csv"}
    for name, uri in downloads.items():
        assert base64.b64decode(uri.partition("base64,")[2]) == (written.parent / str(name)).read_bytes()


def test_the_model_card_is_read_by_a_hub_and_by_people(written: Path, comparison: Comparison) -> None:
    text = written.with_name("model_card.md").read_text(encoding="utf-8")
    results = ModelCard(text).data.eval_results  # as the hub's own library reads them
    metrics = {result.metric_type: result.metric_value for result in results}
    assert metrics["exact"] == pytest.approx(comparison.measure("exact").contrast.b.mean, abs=1e-6)
    assert "# fake-0.8" in text
    assert words.headline(comparison)[0] in text
    for heading in ("Evaluation", "Where it moved", "How the images drifted", "How it was measured", "Limitations"):
        assert f"## {heading}\n" in text
    assert "> **Note.** bright chose the training pairs" in text
