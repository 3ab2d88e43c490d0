"""The front door as a user meets it: exit status, one line on stderr, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from diffdpo import cli

HEAVY = ("torch", "diffusers", "transformers", "open_clip", "pyarrow", "numpy", "scipy")
VERBS = ("demo", "label", "import", "train", "generate", "score", "bench", "compare", "report", "export")


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("generate", "--model", "words", "--steps", "8"), "--steps: words is a language model"),
        (("generate", "--model", "shapes", "--max-tokens", "8"), "--max-tokens: shapes is an image model"),
        (("generate", "--model", "shapes", "--device", "gpu"), "device 'gpu': name one of cpu, cuda"),
        (("generate", "--model", "shapes", "--lora", "configs", "--dry-run"), "LoRA 'configs': no weights in it"),
        (("label", "--model", "words", "--scorer", "shapes-exact"), "'words': a built-in language model"),
    ],
)
def test_what_a_model_or_machine_does_not_have(capsys, prompts, tmp_path, words, message):
    assert message in complaint(capsys, *words, "--prompts", prompts, "--out", str(tmp_path / "o"))
    assert not (tmp_path / "o").exists()


def test_the_image_model_is_no_language_model(capsys, tmp_path):
    config = ("configs/words_dpo.yaml", "model.path=shapes", f"data.path={tmp_path}", f"output={tmp_path / 'o'}")
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    assert "shapes: the built-in image model" in complaint(capsys, "train", *config)


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


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_an_output_below_a_file(capsys, prompts, tmp_path, place):
    (tmp_path / "file").touch()
    for words in (["label", "--scorer", "shapes-exact"], ["generate"], ["generate", "--dry-run"]):
        line = complaint(capsys, *words, "--model", "shapes", "--prompts", prompts, "--out", str(tmp_path / place))
        assert "file: a file, not a folder" in line


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda file: (file / "below").mkdir(), "file/below: a part of this path is a file"),
        (lambda file: file.mkdir(), "file: a file is there already"),
        (lambda file: file.parent.write_bytes(b""), "a folder; name a file"),
        (lambda file: (file.parent / ("x" * 300)).read_bytes(), "the name is too long"),
        (lambda file: (file.parent / "none").read_bytes(), "none: no such file or folder"),
    ],
)
def test_what_the_system_refuses_is_one_line(capsys, monkeypatch, tmp_path, act, words):
    import diffdpo.commands.demo as demo

    (tmp_path / "file").touch()
    monkeypatch.setattr(demo, "run", lambda args: act(tmp_path / "file"))
    assert words in complaint(capsys, "demo")


def test_a_full_disk_is_one_line(capsys, monkeypatch, tmp_path):
    import diffdpo.commands.demo as demo
    from diffdpo.runs import write_bytes

    (tmp_path / "f.partial").symlink_to("/dev/full")
    monkeypatch.setattr(demo, "run", lambda args: write_bytes(tmp_path / "f", b"1"))
    assert f"{tmp_path / 'f'}: the disk is full" in complaint(capsys, "demo")


def test_a_full_disk_in_a_librarys_own_words_is_one_line_too(capsys, monkeypatch):
    import diffdpo.commands.demo as demo

    def act(args):
        raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(errno.ENOSPC)} (os error 28)")

    monkeypatch.setattr(demo, "run", act)
    assert complaint(capsys, "demo") == "diffdpo: the disk is full; make room and give the same command again"


BAD_MODELS = {
    "torn": "the folder is not a whole diffusers pipeline",
    "p.txt": "neither a diffusers folder nor a .safetensors file",
}


@pytest.mark.parametrize("model", BAD_MODELS)
@pytest.mark.parametrize("verb", ["label", "generate", "bench"])
def test_a_model_that_cannot_be_opened_leaves_no_folder(capsys, prompts, tiny_model, tmp_path, verb, model):
    (tmp_path / "p.txt").touch()
    shutil.copytree(tiny_model, tmp_path / "torn")
    weights = next((tmp_path / "torn" / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    source = {
        "label": ("label", "--prompts", prompts, "--scorer", "shapes-exact"),
        "generate": ("generate", "--prompts", prompts),
        "bench": ("bench", "shapes", "--limit", "2"),
    }
    out = tmp_path / "o"
    assert BAD_MODELS[model] in complaint(capsys, *source[verb], "--model", str(tmp_path / model), "--out", str(out))
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scorer", "shapes-exact", "--steps", "1"], "shapes-exact: "),
        (["--scorer", "shapes-pickscore", "--size", "33"], "--size 33: "),
        (["--scorer", "shapes-pickscore", "--steps", "2000"], "--steps 2000: "),
    ],
    ids=["foreign-captions", "size", "steps"],
)
def test_settings_that_only_the_model_or_the_scorer_can_refuse_leave_no_folder(
    capsys, prompts, tiny_model, tmp_path, words, message
):
    out = tmp_path / "o"
    cli.run(["label", "--model", str(tiny_model), "--prompts", prompts, *words, "--out", str(out)])
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not out.exists()
