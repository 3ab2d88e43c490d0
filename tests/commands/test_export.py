"""`diffdpo export`: runs written in every form, and what is refused, which leaves nothing."""

from __future__ import annotations

import json
import shutil

import pytest
from diffusers import StableDiffusionPipeline
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from diffdpo import cli
from diffdpo.config import DpoConfig, build
from diffdpo.training.image.runner import run_images


@pytest.fixture
def make_run(tiny_model, make_store, tmp_path):
    def make(rank):
        base = shutil.copytree(tiny_model, tmp_path / "base")
        settings = {
            "output": str(tmp_path / "run"),
            "model": {"path": str(base), "reference": "adapter" if rank else "copy"},
            "data": {"path": str(make_store(12)), "held_out_share": 0.3},
            "training": {"steps": 2, "batch_size": 2, "learning_rate": 1e-2, "evaluate_every": 1, "log_every": 1},
            "loss": {"beta": 100},
            "lora": {"rank": rank, "alpha": 3 * rank},
        }
        run_images(build(DpoConfig, settings))
        return str(tmp_path / "run")

    return make


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_a_refused_export_leaves_nothing(tmp_path, capsys, dry_run):
    assert cli.run(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out"), *dry_run]) == 2
    assert "not the folder of a diffdpo run" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused(tmp_path, capsys):
    (tmp_path / "mine").touch()
    assert cli.run(["export", "run", "--out", str(tmp_path)]) == 2
    assert "not empty; name another folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--format", "gguf"], "invalid choice: 'gguf'"),
        (["--dtype", "int8"], "invalid choice: 'int8'"),
        (["--out", "lora.safetensors"], "name a folder, say lora; the file in it will be lora.safetensors"),
    ],
)
def test_wrong_words_are_refused(tmp_path, monkeypatch, capsys, given, words):
    monkeypatch.chdir(tmp_path)
    try:
        status = cli.run(["export", "run", "--out", "out", *given])
    except SystemExit as left:
        status = left.code
    assert status == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_lora_run_leaves_in_every_form_that_fits(make_run, tmp_path, capsys):
    run = make_run(2)
    assert ModelCard.load(tmp_path / "run" / "lora" / "README.md").data.tags
    assert "| labeled by | test |" in (tmp_path / "run" / "lora" / "README.md").read_text()
    for name, options in {
        "plain": [],
        "kohya": ["--format", "kohya", "--dtype", "fp16"],
        "merged": ["--merge"],
        "one": ["--merge", "--format", "single-file"],
    }.items():
        assert cli.run(["export", run, "--out", str(tmp_path / name), *options]) == 0
        assert (tmp_path / name / "README.md").is_file()
    assert sorted(path.name for path in (tmp_path / "plain").iterdir()) == [
        "README.md",
        "pytorch_lora_weights.safetensors",
    ]
    assert load_file(tmp_path / "plain" / "pytorch_lora_weights.safetensors").keys()
    kohya = load_file(tmp_path / "kohya" / "kohya.safetensors")
    assert {value.item() for key, value in kohya.items() if key.endswith(".alpha")} == {6.0}
    merged = StableDiffusionPipeline.from_pretrained(tmp_path / "merged", safety_checker=None)
    assert merged.unet.state_dict().keys()
    assert (tmp_path / "one" / "one.safetensors").is_file()
    assert (tmp_path / "one" / "one" / "model_index.json").is_file()
    capsys.readouterr()
    for options, words in (
        (["--format", "single-file"], "add --merge"),
        (["--format", "kohya", "--merge"], "whole model"),
    ):
        assert cli.run(["export", run, "--out", str(tmp_path / "no"), "--dry-run", *options]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_a_whole_model_is_made_of_the_runs_own_base_alone(make_run, tmp_path, capsys):
    run, base = make_run(2), tmp_path / "base"
    config = base / "scheduler" / "scheduler_config.json"

    def status(*options):
        return cli.run(["export", run, "--out", str(tmp_path / "out"), "--dry-run", *options])

    assert status("--merge") == 0
    config.write_text(config.read_text() + " ")
    assert status("--merge") == 2
    assert f"tuned from another model than is at {base} now" in capsys.readouterr().err
    assert status() == 0
    base.rename(tmp_path / "elsewhere")
    assert status("--merge") == 2
    assert f"its base model is not at {base} any more" in capsys.readouterr().err


def test_a_full_run_has_no_lora_to_write(make_run, tmp_path, capsys):
    run = make_run(0)
    assert "base_model_relation" not in (tmp_path / "run" / "model" / "README.md").read_text()  # the base is local
    for options, words in ((["--merge"], "no LoRA to merge"), (["--format", "kohya"], "that form is for a LoRA")):
        assert cli.run(["export", run, "--out", str(tmp_path / "out"), *options]) == 2
        assert words in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    assert cli.run(["export", run, "--out", str(tmp_path / "out"), "--format", "single-file", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 2
    assert (tmp_path / "out" / "out.safetensors").is_file()
