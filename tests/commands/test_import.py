"""`diffdpo import` from the terminal: killed and started again, what it says, and a training on what it made."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from diffdpo import cli

KILLED = """
import os, signal, sys
from diffdpo import cli
replace, left = os.replace, [int(sys.argv[1])]
def counted(old, new):
    if str(new).endswith(".parquet"):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    replace(old, new)
os.replace = counted
cli.main(sys.argv[2:])
"""
"""Runs a command line and is killed when it is about to give the n-th Parquet file its name."""


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Five files of eight rows, as Pick-a-Pic names them; the first row of each is a tie, the second unlabelled."""
    folder = tmp_path / "published"
    folder.mkdir()
    for file in range(5):
        numbers = range(8 * file, 8 * file + 8)
        table = {
            "caption": [f"thing {number}" for number in numbers],
            "jpg_0": [picture(2 * number) for number in numbers],
            "jpg_1": [picture(2 * number + 1) for number in numbers],
            "label_0": [0.5, None, *[1.0, 0.0] * 3],
            "label_1": [0.5, None, *[0.0, 1.0] * 3],
            "has_label": [True, False, *[True] * 6],
            "ranking_id": list(numbers),
        }
        pq.write_table(pa.table(table), folder / f"train-{file:05d}-of-00005.parquet")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_killed_and_started_again_it_leaves_the_same_bytes(published, tmp_path):
    argv = ["import", "pickapic", str(published), "--out"]
    assert cli.run([*argv, str(tmp_path / "at once")]) == 0
    killed = subprocess.run([sys.executable, "-c", KILLED, "3", *argv, str(tmp_path / "store")], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    half = {"part-00000.parquet", "part-00001.parquet", "part-00002.parquet", "part-00003.parquet.partial"}
    assert contents(tmp_path / "store").keys() == half | {"manifest.json"}
    assert cli.run([*argv, str(tmp_path / "store")]) == 0
    assert contents(tmp_path / "store") == contents(tmp_path / "at once")


def test_what_it_says(published, tmp_path, capsys):
    out = tmp_path / "store"
    assert cli.run(["import", "pickapic", str(published), "--out", str(out), "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["rows"], plan["parts"], plan["state"]) == (40, 5, "new")
    assert not out.exists()
    assert cli.run(["import", "pickapic", str(published), "--out", str(out)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"35 pairs (5 ties) of 40 rows of pickapic train in {out}"
    assert second.startswith("left out 5 rows (5 without a label, 0 that cannot be used); all are named in")


def test_the_store_trains(published, tiny_model, tmp_path, capsys):
    assert cli.run(["import", "pickapic", str(published), "--out", str(tmp_path / "store")]) == 0
    argv = ["train", "configs/shapes_dpo.yaml", f"data.path={tmp_path / 'store'}", f"output={tmp_path / 'run'}"]
    small = [f"model.path={tiny_model}", "training.steps=1", "training.batch_size=2", "training.evaluate_every=1"]
    capsys.readouterr()
    assert cli.run([*argv, *small, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["pairs"] + result["held_out_pairs"] == 30
    assert result["figures"]["loss"] == pytest.approx(0.693147, abs=1e-5)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["hpdv2", "."], "no train.json or test.json in it"),
        (["pickapic", ".", "--images", "x"], "--images goes with hpdv2"),
        (["pickapic", ".", "--limit", "0"], "--limit: at least 1 row, not 0"),
        (["pickapick", "."], "invalid choice: 'pickapick'"),
    ],
)
def test_wrong_use_is_one_line_and_leaves_nothing(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        status = cli.run(["import", *argv, "--out", "store"])
    except SystemExit as exit_:
        status = exit_.code
    assert status == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layout", ["one file", "folder above", "several splits", "hpdv2"])
def test_training_on_data_that_is_no_store_names_the_import(layout, published, tmp_path, capsys):
    if layout == "one file":
        given = published / "train-00000-of-00005.parquet"
    elif layout == "folder above":
        given = published.parent
    elif layout == "several splits":
        given = published
        (published / "train-00004-of-00005.parquet").rename(published / "test-00000-of-00001.parquet")
    else:
        given = tmp_path / "HPDv2"
        given.mkdir()
        (given / "train.json").write_text("[]")
    argv = ["train", "configs/shapes_dpo.yaml", f"data.path={given}", f"output={tmp_path / 'run'}", "model.path=shapes"]
    assert cli.run([*argv, "--dry-run"]) == 2
    kind = "hpdv2" if layout == "hpdv2" else "pickapic"
    assert f"`diffdpo import {kind} {given} " in capsys.readouterr().err
