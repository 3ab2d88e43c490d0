"""Figures for a model card, read from what the benchmark commands leave."""

from __future__ import annotations

import json

import pytest

from diffdpo.benchmarks.markdown import evaluation, table
from diffdpo.errors import UserError


def estimate(mean, low, high):
    return {"mean": mean, "interval": {"low": low, "high": high}, "n": 100}


def contrast(before, after, difference):
    return {"a": {"mean": before}, "b": {"mean": after}, "difference": difference, "wins": {"rate": {"mean": 0.75}}}


COMPARED = {
    "suite": "shapes",
    "title": "captions",
    "prompts": 100,
    "parts": {
        "exact": {
            "name": "exact",
            "group": "parts",
            "labeled": False,
            "contrast": contrast(0.4, 0.5, estimate(0.1, 0.05, 0.15)),
            "verdict": "up",
        }
    },
    "scores": {
        "pickscore": {
            "name": "pickscore",
            "group": "scores",
            "labeled": True,
            "contrast": contrast(21.5, 22.0, estimate(0.5, 0.2, 0.8)),
            "verdict": "unclear",
        }
    },
    "warnings": ["Look | twice."],
}


@pytest.mark.parametrize(
    ("name", "content"), [("comparison.json", COMPARED), ("report.json", {"comparison": COMPARED})]
)
def test_a_comparison_becomes_a_table(tmp_path, name, content):
    (tmp_path / name).write_text(json.dumps(content))
    lines = evaluation(tmp_path)
    assert lines[0] == "Before and after, on 100 captions from the same seeds (suite `shapes`)."
    assert lines[4] == "| exact | 40.0% | 50.0% | +10.0 | +5.0 to +15.0 | 75.0% | up |"
    labeled = "| pickscore (chose the training pairs) | 21.5 | 22 | +0.50 | +0.20 to +0.80 | 75.0% | unclear |"
    assert lines[5] == labeled
    assert lines[-1] == "> **Note.** Look | twice."


def test_a_bar_within_a_cell_does_not_end_it():
    assert table(["a|b"], [["c"]]) == ["| a\\|b |", "| --- |", "| c |"]


def test_folders_without_figures_are_refused(tmp_path):
    with pytest.raises(UserError, match="no figures in it"):
        evaluation(tmp_path)
    (tmp_path / "comparison.json").write_text("{}")
    with pytest.raises(UserError, match="make them again"):
        evaluation(tmp_path)
