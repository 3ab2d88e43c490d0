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
    weights = tmp_path / "weights.pt"
    weights.touch()
    words += ["--scorer", "bright", "--scorer", f"reddish={weights}", "--device", "cpu"]
    assert call(bench, *words, "--dry-run")["images"] == 24
    assert not (tmp_path / "run").exists()
    result = call(bench, *words)
    assert asked == [("bright", None, "cpu"), ("reddish", str(weights), "cpu")]
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
        (["shapes", "--model", "/none", "--scorer", "pickscore"], "model '/none': no such file or folder"),
        (
            ["shapes", "--model", "a/b", "--scorer", "pickscore", "--lora", "none"],
            "LoRA 'none': no such file or folder",
        ),
        (["shapes", "--images", "none", "--scorer", "pickscore=/nope"], "/nope: no such file or folder"),
        (["shapes", "--images", "none", *["--scorer", "pickscore"] * 2], "'pickscore' is given twice"),
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
    told = capsys.readouterr().out
    assert "note: bright chose the training pairs" in told
    assert all(found in told for found in ("JPEG size", "diversity", "gained most", "relation: above"))
    assert (tmp_path / "c" / "measures.csv").read_text().startswith("group,measure,n,before")
    page = call(report, *runs, "--out", str(tmp_path / "r"))
    assert Path(page["report"]).is_file()
    assert Path(page["numbers"]).is_file()
    assert Path(page["card"]).is_file()
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


def test_a_dry_run_compares_with_the_folder_that_is_there(before: BenchRun, tmp_path: Path) -> None:
    words = ["shapes", "--images", str(before.folder / "images"), "--limit", "24", "--out", str(tmp_path / "run")]
    words += ["--scorer", "shapes-exact", "--device", "cpu"]
    assert call(bench, *words, "--dry-run")["state"] == "new"
    call(bench, *words)
    assert call(bench, *words, "--dry-run")["state"] == "complete"
    with pytest.raises(UserError, match=r"other settings .*prompts: there 24, now 12"):
        call(bench, *words, "--limit", "12", "--dry-run")


def test_weights_that_cannot_be_opened_stop_before_an_image_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torn = tmp_path / "hpsv2.pt"
    torn.write_bytes(b"torn")
    words = ["shapes", "--model", "shapes", "--limit", "2", "--device", "cpu", "--out", str(tmp_path / "run")]
    with pytest.raises(scorers.ScorerError, match=r"hpsv2\.pt"):
        call(bench, *words, "--scorer", "shapes-pickscore", "--scorer", f"shapes-hpsv2={torn}")
    assert not (tmp_path / "run").exists()
    assert "draw images" not in capsys.readouterr().err


@pytest.mark.parametrize("command", [compare, report], ids=["compare", "report"])
@pytest.mark.parametrize("more", [[], ["--dry-run"]], ids=["run", "dry-run"])
def test_an_output_that_is_a_file_is_refused(
    before: BenchRun, after: BenchRun, tmp_path: Path, command: ModuleType, more: list[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: a file, not a folder"):
        call(command, str(before.folder), str(after.folder), "--out", str(tmp_path / "file"), *more)


def test_bench_of_own_prompts_compares_a_model_before_and_after(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a red circle on a white background\na blue square on a gray background\n")
    drawn = ("--model", "shapes", "--steps", "2", "--scorer", "shapes-pickscore", "--device", "cpu")
    words = ("prompts", "--prompts", str(tmp_path / "mine.txt"), *drawn)
    call(bench, *words, "--out", str(tmp_path / "a"))
    call(bench, *words, "--seed", "0", "--guidance", "2", "--out", str(tmp_path / "b"))
    result = call(compare, str(tmp_path / "a"), str(tmp_path / "b"))
    assert result["prompts"] == 2
    assert set(result["scores"]) == {"shapes-pickscore"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prompts"], "--prompts FILE"),
        (["shapes", "--prompts", "mine.txt"], "bench prompts"),
        (["prompts", "--prompts", "one.txt"], "at least 2"),
    ],
)
def test_own_prompts_that_cannot_be_used(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.txt").write_text("a red circle on a white background\n")
    with pytest.raises(UserError, match=message):
        call(bench, *words, "--model", "shapes", "--out", "run")
    assert not (tmp_path / "run").exists()
