"""KTO, MaPO and SFT as whole runs, killed and resumed to the bit. Their losses: tests/models/test_family_methods.py."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from diffdpo.config import IMAGE_METHODS, KtoLossConfig, build, load_config
from diffdpo.errors import UserError
from diffdpo.training import loop
from diffdpo.training.image.inputs import load_model
from diffdpo.training.image.kto import DiffusionKto
from diffdpo.training.image.pairs import accuracy_by_timestep
from diffdpo.training.image.runner import run_images

LOSSES = {"kto": {"beta": 500}, "mapo": {}, "sft": {}}


@pytest.fixture
def settings(make_config, tmp_path):
    """Of a run of 3 steps, by method."""

    def make(method: str, name: str = "run", reference: str = "copy"):
        given = dataclasses.asdict(make_config(training__steps=3, training__checkpoint_every=1))
        given |= {"method": method, "output": str(tmp_path / name), "loss": LOSSES[method]}
        given["model"]["reference"] = reference if method == "kto" else None
        return build(IMAGE_METHODS[method], given)

    return make


def weights(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model" / "unet" / "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("method", LOSSES)
def test_stopped_run_ends_with_the_same_bits_and_opens_in_diffusers(settings, method, monkeypatch):
    whole, stopped = settings(method, "whole"), settings(method, "stopped")
    run_images(whole)
    plain = loop._Training._step

    def dying(self, step):
        if step == 2:
            raise KeyboardInterrupt
        return plain(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(loop._Training, "_step", dying)
        with pytest.raises(KeyboardInterrupt):
            run_images(stopped)
    assert not (Path(stopped.output) / "model").exists()
    run_images(stopped)
    a, b = weights(whole.output), weights(stopped.output)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    StableDiffusionPipeline.from_pretrained(Path(stopped.output) / "model")


def test_cached_reference_gives_the_same_kto_run(settings):
    live, cached = (run_images(settings("kto", name, name)) for name in ("copy", "cached"))
    assert live["figures"]["loss"] == pytest.approx(cached["figures"]["loss"], rel=1e-5)


ERRORS = [[0.010, 0.012, 0.002, 0.001], [0.013, 0.009, 0.012, 0.010], [0.013, 0.011, 0.012, 0.010], [0.012] * 4]
"""Of winner and loser, the policy's and then the reference's, of four pairs."""

JUDGING = """
import json, sys, torch
from diffdpo.config import KtoLossConfig
from diffdpo.training.image.kto import DiffusionKto
rank, meeting, errors = int(sys.argv[1]), sys.argv[2], torch.tensor(json.loads(sys.argv[3]))
torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
recipe = object.__new__(DiffusionKto)
recipe.loss_config = KtoLossConfig(beta=500)
print(json.dumps(recipe.judge(*errors[:, 2 * rank : 2 * rank + 2]).loss.tolist()))
"""


def test_kto_counts_from_the_mean_over_all_processes(tmp_path):
    """Two processes of 2 pairs judge as one of 4: with a reference point of their own, they would not."""
    arguments = [str(tmp_path / "meeting"), json.dumps(ERRORS)]
    two = [
        subprocess.Popen([sys.executable, "-c", JUDGING, str(rank), *arguments], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    found = [loss for process in two for loss in json.loads(process.communicate(timeout=300)[0])]
    one = object.__new__(DiffusionKto)
    one.loss_config = KtoLossConfig(beta=500)
    errors = torch.tensor(ERRORS)
    assert found == pytest.approx(one.judge(*errors).loss.tolist(), rel=1e-6)
    assert found[:2] != pytest.approx(one.judge(*errors[:, :2]).loss.tolist(), rel=1e-3)


@pytest.mark.parametrize("method", ["mapo", "sft"])
def test_methods_without_a_reference_make_none(settings, method, monkeypatch):
    config = settings(method)
    monkeypatch.setattr(type(load_model(config, torch.device("cpu"))), "reference", lambda self: pytest.fail("made"))
    run_images(config)


@pytest.mark.parametrize("method", ["mapo", "sft"])
def test_a_reference_is_refused_in_plain_words(settings, method, tmp_path):
    given = dataclasses.asdict(settings(method))
    given["model"]["reference"] = "cached"
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(given))
    with pytest.raises(UserError, match=r"model\.reference: this method has no reference; leave the key out"):
        load_config(file)


def test_kto_starts_at_one_half(settings):
    config = settings("kto")
    run_images(config)
    first = (Path(config.output) / "metrics.jsonl").read_text().splitlines()[0]
    assert yaml.safe_load(first)["eval/loss"] == pytest.approx(0.5, abs=1e-6)


def test_min_margin_leaves_close_pairs_out(settings):
    config = settings("sft")
    every = run_images(config)["pairs"]
    strict = dataclasses.replace(
        config, output=config.output + "2", data=dataclasses.replace(config.data, min_margin=10)
    )
    assert 0 < run_images(strict)["pairs"] < every


def test_accuracy_by_timestep_counts_positive_margins_in_each_range():
    margin, timesteps = torch.tensor([1.0, -1.0, 0.0, 2.0]), torch.tensor([0, 249, 250, 999])
    assert accuracy_by_timestep(margin, timesteps, 1000) == {
        "eval/accuracy/t0-249": 0.5,
        "eval/accuracy/t250-499": 0.0,
        "eval/accuracy/t750-999": 1.0,
    }
