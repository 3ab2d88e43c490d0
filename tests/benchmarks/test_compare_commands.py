"""What `compare` and `report` do with their options; what they find is tested beside it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from diffdpo.benchmarks.results import BenchRun
from diffdpo.commands import compare, report
from diffdpo.errors import UserError
from diffdpo.runs import read_json, write_json
from scorers import ScorerError


def call(command: ModuleType, *words: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    result: dict[str, Any] = command.run(parser.parse_args(words))
    return result


def with_settings(run: BenchRun, folder: Path, **settings: str) -> str:
    """A copy of a run that was made with other settings."""
    folder.mkdir()
    for name in ("images", "results.jsonl", "summary.json"):
        (folder / name).symlink_to(run.folder / name)
    manifest = read_json(run.folder / "manifest.json")
    write_json(folder / "manifest.json", {**manifest, "settings": {**manifest["settings"], **settings}})
    return str(folder)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """The folder of a finished training run."""
    folder = tmp_path / "tuned"
    folder.mkdir()
    config = {
        "method": "dpo",
        "seed": 7,
        "model": {"path": "someone/some-model"},
        "data": {"size": 512},
        "training": {
            "steps": 40,
            "batch_size": 4,
            "accumulation": 1,
            "learning_rate": 1e-5,
            "schedule": "cosine",
            "warmup_steps": 20,
            "optimizer": "adamw",
            "precision": "bf16",
            "ema": None,
        },
        "loss": {"beta": 5000.0},
        "lora": {"rank": 8, "alpha": 0.0},
    }
    write_json(folder / "config.json", config)
    settings = {
        "content": {"model": "someone/some-model", "data": "c3d4"},
        "training": {"batch_size": 8, "accumulation": 1},
    }
    manifest = {"command": "train", "complete": True, "settings": settings, "inputs": {}, "versions": {"diffdpo": "0"}}
    results = {"pairs": 95, "held_out_pairs": 50, "labelers": ["bright"]}
    write_json(folder / "manifest.json", {**manifest, "results": results})
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 40, "loss": 0.6, "eval/accuracy": 0.64}) + "\n")
    return folder


def test_the_card_tells_of_the_training_run(before: BenchRun, after: BenchRun, trained: Path, tmp_path: Path) -> None:
    words = (str(before.folder), str(after.folder), "--out", str(tmp_path / "r"), "--training", str(trained))
    card = Path(call(report, *words)["card"]).read_text(encoding="utf-8")
    assert "## How it was trained\n" in card
    assert "| labeled by | bright |" in card
    assert "**64.0%** of 50 pairs" in card
    write_json(trained / "manifest.json", {**read_json(trained / "manifest.json"), "complete": False})
    card = Path(call(report, *words)["card"]).read_text(encoding="utf-8")
    assert "How it was trained" not in card
    assert "## Evaluation\n" in card


def test_labelers_are_found_unless_they_are_named(
    before: BenchRun, after: BenchRun, trained: Path, tmp_path: Path
) -> None:
    (trained / "lora").mkdir()
    tuned = with_settings(after, tmp_path / "after", lora=str(trained / "lora"))
    found = call(compare, str(before.folder), tuned)
    assert found["scores"]["bright"]["labeled"]
    assert found["judge"] == "reddish"
    assert compare.UNNAMED not in found["notes"]
    assert call(compare, str(before.folder), tuned, "--labeled-by", "reddish")["judge"] == "bright"
    unknown = call(compare, str(before.folder), str(after.folder))
    assert compare.UNNAMED in unknown["notes"]


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("clipscor", "unknown scorer 'clipscor': did you mean 'clipscore'"),
        ("clipscore=/nope", "/nope: no such file or folder"),
        ("shapes-exact", "shapes-exact has no image encoder"),
    ],
)
def test_an_encoder_that_cannot_be_used(before: BenchRun, after: BenchRun, encoder: str, message: str) -> None:
    with pytest.raises((UserError, ScorerError), match=message):
        call(compare, str(before.folder), str(after.folder), "--encoder", encoder)


def test_without_an_encoder_diversity_is_left_out_and_told(before: BenchRun, after: BenchRun, tmp_path: Path) -> None:
    folders = [with_settings(run, tmp_path / run.folder.name, suite="prompts") for run in (before, after)]
    found = call(compare, *folders)
    assert "diversity" not in found["drift"]
    assert found["distance"] is None
    assert compare.NOT_ENCODED in found["notes"]
    assert "diversity" in call(compare, *folders, "--encoder", "shapes-hpsv2")["drift"]


def test_a_training_run_that_is_not_there_is_told_before_anything_is_computed(
    before: BenchRun, after: BenchRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (str(before.folder), str(after.folder), "--out", str(tmp_path / "r"), "--training", str(tmp_path / "no"))
    with pytest.raises(UserError, match="no: no such file; a training run leaves its metrics there"):
        call(report, *words)
    assert "embed" not in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
