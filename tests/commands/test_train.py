"""`diffdpo train --dry-run` refuses what the run itself would refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from diffdpo import cli


@pytest.fixture
def argv(tiny_model, make_store, tmp_path):
    settings = {
        "output": str(tmp_path / "run"),
        "model": {"path": str(tiny_model), "reference": "copy"},
        "data": {"path": str(make_store(24)), "held_out_share": 0.25},
        "training": {"steps": 1, "batch_size": 2, "learning_rate": 1e-4},
        "loss": {"beta": 500},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings))
    return ["train", str(tmp_path / "c.yaml")]


def test_a_folder_of_somebody_else_is_refused(argv, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "letter.txt").write_text("mine")
    assert cli.run([*argv, "--dry-run"]) == 2
    assert "not made by diffdpo" in capsys.readouterr().err


def test_a_folder_of_another_run_is_refused_by_the_key_that_differs(argv, tmp_path, capsys):
    assert cli.run([*argv, "--dry-run"]) == 0
    assert not (tmp_path / "run").exists()
    assert cli.run(argv) == 0
    assert cli.run([*argv, "--dry-run"]) == 0
    capsys.readouterr()
    assert cli.run([*argv, "loss.beta=600", "--dry-run"]) == 2
    assert "loss.beta: there 500.0, now 600.0" in capsys.readouterr().err


@pytest.mark.parametrize("changes", [[], ["data.flip=true", "data.cache_precision=bf16"]])
def test_the_disk_that_a_dry_run_tells_is_what_the_cache_takes(argv, tmp_path, capsys, changes):
    assert cli.run([*argv, *changes, "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert cli.run([*argv, *changes]) == 0
    taken = sum(path.stat().st_size for path in Path(told["cache"]).rglob("*.safetensors"))
    assert 1e9 * told["cache_gb"] == pytest.approx(taken, rel=0.05)


def test_a_number_that_is_not_finite_ends_with_status_2(argv, tmp_path, capsys):
    assert cli.run([*argv, "loss.beta=.inf"]) == 2
    assert "loss.beta: a finite number is wanted here" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_a_size_that_the_model_cannot_take_is_told_before_anything_is_encoded(argv, tmp_path, capsys, dry_run):
    assert cli.run([*argv, "data.size=15", *dry_run]) == 2
    assert "data.size: 15 x 15 pixels do not fit" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "pairs" / "cache").exists()
