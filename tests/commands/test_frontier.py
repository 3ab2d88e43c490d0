"""`diffdpo frontier` on real runs of `diffdpo bench text`."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from ppo_samples import ending_model
from text_samples import write_jsonl

from diffdpo import cli

PROMPTS = ["0: tea?", "1: rain?", "2: bread?", "3: the sea?"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Two models that end their answers ever sooner, measured against a third; the first of them with two seeds."""
    place = tmp_path_factory.mktemp("frontier")
    for name, bias in (("base", 2.0), ("a", 3.0), ("b", 4.0)):
        ending_model(place / name, bias)
    write_jsonl(place / "prompts.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    write_jsonl(place / "texts.jsonl", [{"text": text} for text in ("to the sea", "bread and tea")])
    for run, model, more in (
        ("a0", "a", []),
        ("a1", "a", ["--seed", "1"]),
        ("b0", "b", []),
        ("top", "a", ["--top-p", "0.9"]),
    ):
        measure(place, run, model, *more)
    return place


def measure(place: Path, run: str, model: str, *more: str) -> None:
    argv = ["bench", "text", "--model", str(place / model), "--baseline", str(place / "base"), "--judge", "words",
            "--prompts", str(place / "prompts.jsonl"), "--texts", str(place / "texts.jsonl"), "--max-tokens", "12",
            "--device", "cpu", "--out", str(place / run), *more]  # fmt: skip
    assert cli.run(argv) == 0


def test_runs_become_points_with_the_figures_of_their_summaries(place, tmp_path, capsys):
    runs = [f"a:bias 3={place / 'a0'}", f"a:bias 3={place / 'a1'}", f"b={place / 'b0'}"]
    assert cli.run(["frontier", *runs, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "out" / "frontier.csv").open()))
    assert [(row["method"], row["setting"], row["seeds"]) for row in rows] == [
        ("baseline", "", "2"), ("a", "bias 3", "2"), ("b", "", "1")
    ]  # fmt: skip
    summary = json.loads((place / "b0" / "summary.json").read_text())
    assert float(rows[2]["reward"]) == pytest.approx(summary["score"]["model"]["mean"], abs=1e-4)
    assert float(rows[2]["kl"]) == pytest.approx(summary["kl"]["mean"], rel=1e-4)
    seeds = [json.loads((place / run / "summary.json").read_text()) for run in ("a0", "a1")]
    assert float(rows[1]["kl"]) == pytest.approx(sum(one["kl"]["mean"] for one in seeds) / 2, rel=1e-4)
    assert float(rows[0]["kl"]) == 0.0
    assert "| b |  | " in printed
    assert (tmp_path / "out" / "frontier.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (["{}/a0", "{}/base"], "base"),
        (["{}/a0", "x={}/top"], "measured without a KL"),
        (["{}/a0", "{}/none"], "none"),
    ],
)
def test_what_does_not_go_together_is_refused(place, tmp_path, capsys, runs, message):
    assert cli.run(["frontier", *(run.format(place) for run in runs), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_answers_drawn_otherwise_are_refused(place, tmp_path, capsys):
    measure(place, str(tmp_path / "hot"), "a", "--temperature", "1.5")
    capsys.readouterr()
    assert cli.run(["frontier", str(place / "a0"), str(tmp_path / "hot"), "--out", str(tmp_path / "out")]) == 2
    assert "has another decoding than" in capsys.readouterr().err


def test_other_prompts_are_refused(place, tmp_path, capsys):
    write_jsonl(tmp_path / "few.jsonl", [{"prompt": prompt} for prompt in PROMPTS[:2]])
    measure(place, str(tmp_path / "few"), "a", "--prompts", str(tmp_path / "few.jsonl"))
    capsys.readouterr()
    assert cli.run(["frontier", str(place / "a0"), str(tmp_path / "few"), "--out", str(tmp_path / "out")]) == 2
    assert "has another prompts than" in capsys.readouterr().err
