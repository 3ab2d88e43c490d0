"""Whole PPO runs on a tiny model: learning, resuming with the same bits, sharing the work, exporting."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ppo_samples import config, open_reward, write_inputs
from safetensors.torch import load_file
from text_samples import figures, pairs, write_jsonl

from diffdpo import cli
from diffdpo.config import PpoConfig
from diffdpo.training import checkpoints
from diffdpo.training.text.ppo_runner import run_ppo

ROOT = Path(__file__).parents[3]
SCRIPT = """
import sys, yaml, torch
torch.set_num_threads(1)
sys.path.insert(0, "tests")
from ppo_samples import open_reward
from diffdpo.config import PpoConfig, build
from diffdpo.training.text.ppo_runner import run_ppo
run_ppo(build(PpoConfig, yaml.safe_load(open(sys.argv[1]))), open_reward)
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("ppo"))


@pytest.fixture
def make(inputs, tmp_path) -> Callable[..., PpoConfig]:
    return lambda name="run", **changes: config(inputs, tmp_path / name, **changes)


def run(made: PpoConfig) -> dict[str, Any]:
    return run_ppo(made, open_reward)


def exported(made: PpoConfig) -> dict[str, torch.Tensor]:
    return load_file(Path(made.output) / "model" / "model.safetensors")


def start(made: PpoConfig, tmp_path: Path) -> subprocess.Popen[str]:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(dataclasses.asdict(made)))
    (tmp_path / "script.py").write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "config.yaml")],
        text=True,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )


def test_the_reward_rises(make):
    made = make(training__steps=32, training__batch_size=8, training__learning_rate=3e-3, loss__kl_coef=0.01)
    results = run(made)
    rewards = [row["eval/reward"] for row in figures(made) if "eval/reward" in row]
    assert rewards[-1] > rewards[0] + 0.4
    assert results["figures"]["eval/kl"] > 0.05
    assert run(made) == results  # found done


def test_a_killed_run_ends_with_the_same_bits_and_metrics(make, inputs, tmp_path):
    """With everything that has a state or a stream of its own: adaptive KL, an average, plain texts."""
    changes: dict[str, Any] = {
        "training__steps": 16, "training__ema": 0.9, "ptx__path": str(inputs / "texts.jsonl"), "ptx__coef": 0.5,
        "loss__kl_target": 0.5, "loss__kl_horizon": 50,
    }  # fmt: skip
    whole, killed = make("whole", **changes), make("killed", **changes)
    run(whole)
    process = start(killed, tmp_path)
    marker = Path(killed.output) / "checkpoints" / "step-00000004" / checkpoints.MARKER
    for _ in range(6000):
        if marker.exists():
            break
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (Path(killed.output) / "model").exists()
    run(killed)
    first, second = exported(whole), exported(killed)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert figures(whole) == figures(killed)
    coefficients = {row["kl_coef"] for row in figures(whole) if "kl_coef" in row}
    assert len(coefficients) == 4  # it moved with every rollout


def test_with_a_lora_the_reference_is_the_model_below_it(make, tmp_path):
    made = make(lora__rank=2, model__reference="adapter")
    assert run(made)["exported"] == "lora"
    rows = figures(made)
    assert rows[0]["eval/kl"] == 0
    assert rows[-1]["eval/kl"] != 0
    assert (tmp_path / "run" / "lora" / "adapter_model.safetensors").exists()
    assert cli.run(["export", made.output, "--out", str(tmp_path / "again")]) == 0
    first, second = (
        load_file(place / "adapter_model.safetensors") for place in (tmp_path / "run/lora", tmp_path / "again")
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_value_model_starts_from_the_reward_model(make, inputs, tmp_path, capsys):
    """The command line, with a reward model that was trained here as the reward."""
    lm = str(inputs / "lm")
    write_jsonl(tmp_path / "pairs.jsonl", pairs(12))
    argv = ["train", "configs/text_reward.yaml", f"data.path={tmp_path / 'pairs.jsonl'}", f"model.path={lm}",
            "data.max_length=96", f"output={tmp_path / 'rm'}", "training.steps=1", "training.precision=fp32",
            "training.batch_size=4", "training.accumulation=1"]  # fmt: skip
    assert cli.run(argv) == 0
    reward = tmp_path / "rm" / "reward"
    argv = ["train", "configs/text_ppo.yaml", f"data.path={inputs / 'prompts.jsonl'}", f"model.path={lm}",
            f"reward.source={reward}", f"output={tmp_path / 'ppo'}", "training.precision=fp32", "data.max_length=96",
            "data.held_out_share=0.3", "rollout.max_tokens=16", "rollout.minibatches=1", "training.steps=4",
            "training.checkpoint_every=4", "training.batch_size=4", "training.accumulation=1"]  # fmt: skip
    assert cli.run([*argv, "--dry-run"]) == 0
    assert not (tmp_path / "ppo").exists()
    assert cli.run(argv) == 0
    assert "held-out reward" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "ppo")
    (reward / "reward_head.safetensors").unlink()
    assert cli.run(argv) == 2
    assert "no reward_head.safetensors in it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("wordz", "unknown reward 'wordz'"),
        ("./rewards.py", "./rewards.py: no folder of a reward model is there"),
        ("nowhere:reward", "nowhere:reward: cannot be imported"),
        ("diffdpo.words.reward:nothing", "cannot be imported"),
    ],
)
def test_rewards_that_are_not_there(inputs, tmp_path, capsys, source, message):
    argv = ["train", "configs/text_ppo.yaml", f"data.path={inputs / 'prompts.jsonl'}", f"reward.source={source}",
            f"model.path={inputs / 'lm'}", f"output={tmp_path / 'o'}", "data.max_length=96", "rollout.max_tokens=16",
            "--dry-run"]  # fmt: skip
    assert cli.run(argv) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_the_shipped_recipe_of_ppo_ptx_is_whole(inputs, tmp_path, capsys):
    argv = ["train", "configs/text_ppo_ptx.yaml", f"data.path={inputs / 'prompts.jsonl'}", "reward.source=words",
            f"model.path={inputs / 'lm'}", f"ptx.path={inputs / 'texts.jsonl'}", "ptx.max_length=96",
            f"output={tmp_path / 'o'}", "data.max_length=96", "rollout.max_tokens=16", "--dry-run",
            "--json"]  # fmt: skip
    assert cli.run(argv) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["texts"] == 24
    assert plan["memory_gb"] > 0
