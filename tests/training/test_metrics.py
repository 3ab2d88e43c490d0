"""metrics.jsonl holds nothing that JSON does not know; the progress line tells nothing that is not so."""

from __future__ import annotations

import json

from diffdpo.training.metrics import MetricsFile, note, read_metrics


def test_figures_that_are_not_finite_are_left_out(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.write(1, {"loss": float("nan"), "grad_norm": float("inf"), "lr": 0.5})
    assert read_metrics(file.path) == [{"step": 1, "lr": 0.5}]
    assert json.loads(file.path.read_text()) == {"step": 1, "lr": 0.5}


def test_no_accuracy_is_told_while_policy_and_reference_agree():
    assert note({"loss": 0.693147, "eval/accuracy": 0.0, "eval/margin": 0.0}) == note({"loss": 0.693147})
    assert "25" in note({"loss": 0.5, "eval/accuracy": 0.25, "eval/margin": -0.1})
