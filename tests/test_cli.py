"""The front door as a user meets it: exit status, one line on stderr, nothing half-written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from diffdpo import cli

HEAVY = ("torch", "diffusers", "transformers", "open_clip", "pyarrow", "numpy", "scipy")
VERBS = ("demo", "label", "train", "generate", "score", "bench", "compare", "report", "export")


def run(*argv: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "diffdpo", *argv], capture_output=True, text=True, cwd=cwd)


def complaint(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line that a command line is refused with."""
    try:
        status = cli.run(argv)
    except SystemExit as exit_:
        status = exit_.code
    out, err = capsys.readouterr()
    assert status == 2, err
    assert out == ""
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


@pytest.mark.parametrize("argv", [("--help",), *((verb, "--help") for verb in VERBS)], ids=" ".join)
def test_help_needs_nothing_heavy(argv):
    code = f"import sys\nfrom diffdpo import cli\ntry:\n  cli.run({list(argv)!r})\nexcept SystemExit: pass\n"
    code += f"print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().endswith("[]"), done.stdout[-300:] + done.stderr


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\na dog\n")
    return str(path)


def test_missing_model_folder(capsys, prompts, tmp_path):
    line = complaint(capsys, "label", "--model", "./nowhere", "--prompts", prompts, "--scorer", "shapes-pickscore",
                     "--out", str(tmp_path / "o"))  # fmt: skip
    assert "nowhere" in line
    assert not (tmp_path / "o").exists()


def test_unknown_config_key(capsys, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("output: o\nlearning_rat: 3\n")
    assert "learning_rat" in complaint(capsys, "train", str(config))
    config.write_text("output: o\ntraning: {}\n")
    assert "did you mean 'training'?" in complaint(capsys, "train", str(config))


@pytest.mark.parametrize(("content", "word"), [(b"", "empty"), (b"\n  \n", "empty"), (b"caf\xe9\n", "UTF-8")])
def test_unfit_prompt_files(capsys, tmp_path, content, word):
    path = tmp_path / "p.txt"
    path.write_bytes(content)
    line = complaint(capsys, "label", "--model", "shapes", "--prompts", str(path), "--scorer", "shapes-pickscore",
                     "--out", str(tmp_path / "o"))  # fmt: skip
    assert word in line
    assert "p.txt" in line
    assert not (tmp_path / "o").exists()


def test_unknown_scorer(capsys, prompts, tmp_path):
    line = complaint(capsys, "label", "--model", "shapes", "--prompts", prompts, "--scorer", "pickscor",
                     "--out", str(tmp_path / "o"))  # fmt: skip
    assert "'pickscore'" in line
    assert not (tmp_path / "o").exists()


def test_corrupt_shard(capsys, make_store, tiny_model, tmp_path):
    store = make_store(4)
    shard = store / "part-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-200])
    line = complaint(capsys, "train", "configs/shapes_dpo.yaml", f"data.path={store}", f"output={tmp_path / 'o'}",
                     f"model.path={tiny_model}")  # fmt: skip
    assert "part-00000.parquet" in line
    assert not (tmp_path / "o").exists()


def test_unknown_command_names_the_known(capsys):
    assert "invalid choice: 'trian'" in complaint(capsys, "trian")


def test_a_number_that_is_none(capsys, prompts, tmp_path):
    line = complaint(capsys, "label", "--model", "shapes", "--prompts", prompts, "--scorer", "x", "--steps", "ten",
                     "--out", str(tmp_path / "o"))  # fmt: skip
    assert "--steps" in line


def test_dry_run_writes_nothing(make_store, tmp_path):
    store = make_store(12)
    before = sorted(tmp_path.rglob("*"))
    done = run(
        "train", "configs/shapes_dpo.yaml", f"data.path={store}", f"output={tmp_path / 'o'}", "--dry-run", "--json"
    )
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["pairs"] + plan["held_out_pairs"] == 12
    assert sorted(tmp_path.rglob("*")) == before


def test_unexpected_errors_leave_with_status_1(capsys, monkeypatch):
    import diffdpo.commands.demo as demo

    monkeypatch.setattr(demo, "run", lambda args: 1 / 0)
    monkeypatch.setenv("DIFFDPO_TRACEBACK", "0")
    assert cli.run(["demo"]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
