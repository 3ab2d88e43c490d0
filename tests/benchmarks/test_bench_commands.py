from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from bench_fakes import Bright

import scorers
from diffdpo.benchmarks.results import BenchRun
from diffdpo.commands import bench, compare, report
from diffdpo.errors import UserError


def call(command: ModuleType, *words: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    result: dict[str, Any] = command.run(parser.parse_args(words))
    json.dumps(result, allow_nan=False)
    return result


def test_bench_scores_given_images(
    before: BenchRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[tuple[str, str | None, str]] = []

    def load(name: str, model: str | None, device: str) -> Bright:
        asked.append((name, model, device))
        return Bright(name)

    monkeypatch.setattr(scorers, "names", lambda: ["bright", "reddish"])
    monkeypatch.setattr(scorers, "load", load)
    words = [
        "shapes",
        "--images",
        str(before.folder / "images"),
        "--limit",
        "24",
        "--out",
        str(tmp_path / "run"),
    ]
    words += ["--scorer", "bright", "--scorer", "reddish=weights.pt", "--device", "cpu"]
    assert call(bench, *words, "--dry-run")["images"] == 24
    assert not (tmp_path / "run").exists()
    result = call(bench, *words)
    assert asked == [("bright", None, "cpu"), ("reddish", "weights.pt", "cpu")]
    assert result["parts"] == before.summary["parts"]
    assert result["scores"] == before.summary["scores"]
    bench.show(result)
    assert "exact" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shape", "--model", "a/b"], "unknown suite"),
        (["shapes", "--model", "a/b", "--scorer", "picskore"], "unknown scorer"),
        (["shapes", "--model", "a/b", "--limit", "1"], "--limit 1"),
        (["shapes", "--model", "/none", "--scorer", "pickscore"], "there is no folder /none"),
        (["shapes", "--model", "a/b", "--scorer", "pickscore", "--lora", "none"], "--lora none"),
        (
            ["shapes", "--images", "none", "--scorer", "pickscore", "--lora", "x"],
            "--lora x: goes with --model",
        ),
        (["shapes", "--images", "none", "--scorer", "pickscore"], "none: no such folder"),
        (["shapes", "--model", "a/b", "--scorer", "pickscore", "--steps", "0"], "at least 1 step"),
    ],
)
def test_bench_refuses_before_it_starts(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        call(bench, *words, "--out", str(tmp_path / "run"), "--dry-run")
    assert not (tmp_path / "run").exists()


def test_compare_and_report(
    before: BenchRun, after: BenchRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [str(before.folder), str(after.folder)]
    assert call(compare, *runs, "--dry-run")["prompts"] == 24
    result = call(compare, *runs, "--labeled-by", "bright", "--out", str(tmp_path / "c"))
    assert result["judge"] == "reddish"
    assert json.loads((tmp_path / "c" / "comparison.json").read_text())["judge"] == "reddish"
    compare.show(result)
    assert "note: bright chose the training pairs" in capsys.readouterr().out
    page = call(report, *runs, "--out", str(tmp_path / "r"))
    assert Path(page["report"]).is_file()
    assert Path(page["numbers"]).is_file()
    report.show(page)
    assert page["headline"][0] in capsys.readouterr().out
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        call(report, *runs, "--training", str(tmp_path), "--dry-run")


def test_commands_import_nothing_heavy() -> None:
    code = (
        "import argparse, sys\n"
        "from diffdpo.commands import bench, compare, report\n"
        "for c in (bench, compare, report): c.add_arguments(argparse.ArgumentParser()); assert c.HELP\n"
        "print({'torch', 'numpy', 'scipy', 'PIL', 'jinja2'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
