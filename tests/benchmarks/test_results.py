from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench_fakes import N, edit_rows

from diffdpo.benchmarks.results import BenchRun, read_run
from diffdpo.errors import UserError
from diffdpo.runs import read_json, write_json

Rows = list[dict[str, Any]]


@pytest.fixture
def folder(before: BenchRun, tmp_path: Path) -> Path:
    return Path(shutil.copytree(before.folder, tmp_path / "run"))


def test_reads_what_was_written(before: BenchRun) -> None:
    run = read_run(before.folder)
    assert run == before
    assert [row.index for row in run.rows] == list(range(N))
    assert run.scorers == ["bright", "reddish"]
    assert run.parts == ["count", "colors", "shapes", "relation", "background", "exact"]
    assert run.image(3).name == "00003.png"
    assert run.values("parts", "exact")[0] in (True, False)
    exact = run.summary["parts"]["exact"]
    assert exact["n"] == N
    assert exact["low"] <= exact["mean"] <= exact["high"]


def _put(row: int, key: str, value: Any) -> Callable[[Rows], object]:
    return lambda rows: rows[row].__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.pop(), "row 23 is missing"),
        (lambda rows: rows.pop(4), "row 4: index 5, where 4 is missing"),
        (lambda rows: rows.insert(5, rows[4]), "row 5: index 4, a duplicate of an earlier row"),
        (_put(2, "image", "images/none.png"), "row 2: its image .*none.png is missing"),
        (lambda rows: rows[6].pop("prompt"), "row 6: lacks 'prompt'"),
        (_put(7, "prompt", 3), "row 7: 'prompt' is 3"),
        (_put(7, "index", True), "row 7: 'index' is True"),
        (_put(8, "scores", {"bright": float("nan"), "reddish": 1.0}), "row 8: bright is nan"),
        (_put(8, "scores", {"bright": 1.0}), "row 8: other scores than in row 0"),
        (_put(9, "parts", {"count": 1}), "row 9: part count is 1"),
        (_put(9, "parts", None), "row 9: other parts than in row 0"),
        (_put(9, "look", []), "row 9: 'look' is not an object"),
    ],
)
def test_damaged_rows_are_named(folder: Path, change: Callable[[Rows], object], message: str) -> None:
    edit_rows(folder, change)
    with pytest.raises(UserError, match=message) as error:
        read_run(folder)
    assert "results.jsonl" in str(error.value)
    assert "\n" not in str(error.value)


def test_torn_line(folder: Path) -> None:
    path = folder / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="row 23: torn"):
        read_run(folder)


def test_missing_image(folder: Path) -> None:
    (folder / "images" / "00005.png").unlink()
    with pytest.raises(UserError, match=r"row 5: its image .*00005\.png is missing"):
        read_run(folder)


def test_unfinished_foreign_or_absent(folder: Path, tmp_path: Path) -> None:
    manifest = read_json(folder / "manifest.json")
    write_json(folder / "manifest.json", {**manifest, "complete": False})
    with pytest.raises(UserError, match="not finished"):
        read_run(folder)
    write_json(folder / "manifest.json", {**manifest, "command": "label"})
    with pytest.raises(UserError, match="made by `diffdpo label`"):
        read_run(folder)
    with pytest.raises(UserError, match="no such folder"):
        read_run(tmp_path / "none")
