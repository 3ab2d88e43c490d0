"""Whole runs of every text method on a tiny model: learning, resuming with the same bits, exporting."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from text_samples import METHODS, figures, pairs, write_jsonl

from diffdpo import cli
from diffdpo.config import TextConfig
from diffdpo.data.text.readers import open_text
from diffdpo.errors import UserError
from diffdpo.models.text.causal_lm import CausalLM
from diffdpo.models.text.loading import load_tokenizer
from diffdpo.models.text.reward_model import RewardModel
from diffdpo.training import checkpoints
from diffdpo.training.order import Order
from diffdpo.training.text.kto import TextKto
from diffdpo.training.text.prepare import prepare
from diffdpo.training.text.runner import run_text
from diffdpo.training.text.settings import text_settings
from diffdpo.training.text.sft import TextSft

SCRIPT = """
import sys, yaml, torch
torch.set_num_threads(1)
from diffdpo.config import TEXT_METHODS, build
from diffdpo.training.text.runner import run_text
settings = yaml.safe_load(open(sys.argv[1]))
run_text(build(TEXT_METHODS[settings["method"]], settings))
"""


def exported(config: TextConfig, name: str = "model") -> dict[str, torch.Tensor]:
    file = {"lora": "adapter_model.safetensors"}.get(name, "model.safetensors")
    weights = load_file(Path(config.output) / name / file)
    head = Path(config.output) / name / "reward_head.safetensors"
    return {**weights, **(load_file(head) if head.exists() else {})}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns(make_text, method):
    config = make_text(method, training__steps=12, training__ema=None, training__learning_rate=3e-3)
    results = run_text(config)
    evaluated = [row for row in figures(config) if "eval/loss" in row]
    assert evaluated[-1]["eval/loss"] < 0.9 * evaluated[0]["eval/loss"]
    if method != "sft":
        assert evaluated[-1]["eval/accuracy"] > 0.8
    assert results["left_out"] == {}
    assert run_text(config) == results  # found done


def test_a_filter_leaves_out_what_it_flags_and_counts_it(make_text, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("rain\n")
    config = make_text("dpo", data__filter=str(words))
    source, tokenizer = open_text(config.data.path), load_tokenizer(config.model.path)
    flagged = sum("rain" in row["prompt"] + row["chosen"] for row in pairs(30))
    count = prepare(config, source, tokenizer, None).count
    assert count.told() == f"30 records, {flagged} left out for flagged as harmful"
    before = text_settings(config, source)
    words.write_text("rain\ntea\n")
    assert text_settings(config, source)["data"] != before["data"]


@pytest.mark.parametrize("method", ["dpo", "reward"])
def test_a_killed_run_ends_with_the_same_bits_and_metrics(make_text, tmp_path, method):
    whole = make_text(method, output=str(tmp_path / "whole"), training__steps=60)
    run_text(whole)
    killed = make_text(method, output=str(tmp_path / "killed"), training__steps=60)
    file = tmp_path / "killed.yaml"
    file.write_text(yaml.safe_dump(dataclasses.asdict(killed)))
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(file)], stderr=subprocess.DEVNULL)
    marker = Path(killed.output) / "checkpoints" / "step-00000002" / checkpoints.MARKER
    for _ in range(6000):
        if marker.exists():
            break
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    name = "reward" if method == "reward" else "model"
    assert not (Path(killed.output) / name).exists()
    run_text(killed)
    first, second = exported(whole, name), exported(killed, name)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert figures(whole) == figures(killed)


@pytest.mark.parametrize("method", ["sft", "kto"])
def test_a_step_keeps_its_examples_and_puts_those_of_alike_length_together(make_text, monkeypatch, method):
    kind = {"sft": TextSft, "kto": TextKto}[method]
    plain, micros = kind.loss, []

    def loss(recipe, network, examples):
        micros.append((examples, [recipe.length(example) for example in examples], recipe.n_examples))
        return plain(recipe, network, examples)

    monkeypatch.setattr(kind, "loss", loss)
    run_text(make_text(method, training__steps=2, training__batch_size=2, training__accumulation=5))
    for step in range(2):
        examples, lengths, n = zip(*micros[5 * step : 5 * step + 5], strict=True)
        assert sorted(chain(*examples)) == sorted(Order(n[0], 10, seed=0).at(step))
        assert list(chain(*lengths)) == sorted(chain(*lengths), reverse=True)
        assert len(set(chain(*lengths))) > 1


@pytest.mark.parametrize("reference", ["copy", "cached"])
def test_the_cached_reference_is_the_live_one(make_text, tmp_path, reference):
    """Both start at ln 2, and the cache is filled once for runs that differ in beta only."""
    config = make_text("dpo", model__reference=reference, training__ema=None)
    results, rows = run_text(config), figures(config)
    assert rows[0]["eval/loss"] == pytest.approx(0.693147, abs=1e-5)
    if reference == "cached":
        live = make_text("dpo", output=str(tmp_path / "live"), training__ema=None)
        assert run_text(live)["figures"]["eval/loss"] == pytest.approx(results["figures"]["eval/loss"], abs=1e-4)
        (shard,) = (tmp_path / "cache").glob("text-reference-*/rows-*.safetensors")
        written = shard.stat().st_mtime_ns
        run_text(make_text("dpo", output=str(tmp_path / "two"), model__reference="cached", loss={"beta": 0.5}))
        assert shard.stat().st_mtime_ns == written
        shard.write_bytes(b"torn")
        with pytest.raises(UserError, match="missing or damaged"):
            run_text(make_text("dpo", output=str(tmp_path / "three"), model__reference="cached"))


def test_the_mean_reward_of_the_reference_answers_is_0(make_text, inputs, tmp_path):
    demonstrations = [{"prompt": f"q{n}", "completion": f" it is {'!' * (n % 4)}"} for n in range(9)]
    write_jsonl(tmp_path / "answers.jsonl", demonstrations)
    own = make_text("reward", output=str(tmp_path / "a"))
    given = make_text("reward", output=str(tmp_path / "b"), loss={"centre_on": str(tmp_path / "answers.jsonl")})
    biases = []
    for config in (own, given):
        run_text(config)
        biases.append(exported(config, "reward")["bias"].item())
    assert biases[0] != biases[1]
    model = RewardModel(str(tmp_path / "b" / "reward"))
    ids = [model.tokenizer(d["prompt"] + d["completion"] + "</s>")["input_ids"] for d in demonstrations]
    scores = [model.network(torch.tensor([some]), torch.ones(1, len(some), dtype=torch.bool)) for some in ids]
    assert torch.cat(scores).mean().item() == pytest.approx(0, abs=1e-5)


def test_dropout_does_not_break_resuming(make_text, tmp_path):
    """What is dropped is a function of the seed and the step; a checkpoint holds no state of a generator."""
    drop = {"loss": {"dropout": 0.2}, "training__checkpoint_every": 3}
    whole = make_text("sft", output=str(tmp_path / "whole"), **drop)
    run_text(whole)
    cut = make_text("sft", output=str(tmp_path / "cut"), **drop)
    run_text(cut)
    last = Path(cut.output) / "checkpoints" / "step-00000006"
    (last / checkpoints.MARKER).unlink()
    manifest = Path(cut.output) / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "complete": False}))
    torch.randn(5)
    run_text(cut)
    assert all(torch.equal(a, exported(cut)[key]) for key, a in exported(whole).items())
    none = make_text("sft", output=str(tmp_path / "none"))
    run_text(none)
    assert not torch.equal(exported(none)["model.norm.weight"], exported(whole)["model.norm.weight"])


def test_the_command_line(inputs, tmp_path, capsys):
    out = tmp_path / "run"
    argv = ["train", "configs/text_dpo.yaml", f"data.path={inputs / 'pairs.jsonl'}", f"output={out}",
            "data.max_length=96", f"model.path={inputs / 'lm'}", "training.steps=2", "training.batch_size=4",
            "training.accumulation=1",
            "training.precision=fp32", "data.held_out_share=0.3"]  # fmt: skip
    assert cli.run([*argv, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["examples"] + plan["held_out_examples"] == 30
    size = sum(tensor.numel() for tensor in load_file(inputs / "lm" / "model.safetensors").values())
    assert plan["memory_gb"] == pytest.approx(4 * size / 1e9)  # a LoRA: weights alone
    assert not out.exists()
    assert cli.run([*argv, "--dry-run"]) == 0
    assert "read: 30 records; the longest sequence has" in capsys.readouterr().out
    assert cli.run(argv) == 0
    assert "held-out accuracy" in capsys.readouterr().out
    assert cli.run(["export", str(out), "--out", str(tmp_path / "again")]) == 0
    first, second = (load_file(place / "adapter_model.safetensors") for place in (out / "lora", tmp_path / "again"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_an_exported_reward_model_keeps_its_zero(make_text, tmp_path):
    config = make_text("reward")
    run_text(config)
    assert cli.run(["export", config.output, "--out", str(tmp_path / "again")]) == 0
    first, second = (load_file(p / "reward_head.safetensors") for p in (tmp_path / "run/reward", tmp_path / "again"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_sft_leaves_the_checkpoint_whose_answers_the_reward_likes_best(make_text, tmp_path):
    """It is the model that a run of just so many steps leaves."""
    worth = iter([1.0, 5.0, 2.0, 3.0])  # before the first step no answer ends, and none is scored

    def open_reward(source: str, device: torch.device) -> Any:
        def score(prompts: list[str], answers: list[str]) -> list[float]:
            asked.append(list(prompts))
            return [next(worth)] * len(answers)

        return score

    asked: list[list[str]] = []
    choose = {"by": "judge", "prompts": 5, "max_tokens": 24, "no_end": -1.0}
    often = {"training__checkpoint_every": 20, "training__evaluate_every": 20, "training__learning_rate": 1e-2}
    config = make_text("sft", training__steps=80, training__keep_checkpoints=4, choose=choose, **often)
    results = run_text(config, open_reward)
    rewards = {row["step"]: row["eval/reward"] for row in figures(config) if "eval/reward" in row}
    assert results["chosen_step"] == max(sorted(rewards)[1:], key=rewards.__getitem__) == 40, rewards
    stopped = make_text("sft", output=str(tmp_path / "stopped"), training__steps=40, **often)
    run_text(stopped)
    first, second = exported(config), exported(stopped)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert {prompt for prompts in asked for prompt in prompts} <= {row["prompt"] for row in pairs(30)}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"training__checkpoint_every": 3, "training__evaluate_every": 2}, "every checkpoint must be evaluated"),
        ({"training__steps": 9, "training__evaluate_every": 1}, "chooses among all 5 checkpoints"),
    ],
)
def test_a_choice_that_would_miss_checkpoints_is_refused(make_text, override, message):
    with pytest.raises(UserError, match=message):
        make_text("sft", choose={"by": "words"}, **override)


def test_an_end_token_of_the_config_ends_what_is_exported_too(make_text):
    config = make_text("reward", data__end_token="z")
    run_text(config)
    assert RewardModel(str(Path(config.output) / "reward")).tokenizer.eos_token == "z"
    config = make_text("sft", data__end_token="z", output=config.output + "2")
    run_text(config)
    model = CausalLM(str(Path(config.output) / "model"))
    assert model.lm.generation_config.eos_token_id == model.tokenizer.convert_tokens_to_ids("z")


def test_sft_then_dpo(make_text, tmp_path):
    """A step's export is the next step's model."""
    run_text(make_text("sft", output=str(tmp_path / "sft")))
    sft = str(tmp_path / "sft" / "model")
    run_text(make_text("dpo", model__path=sft, model__reference="adapter", lora={"rank": 2}))
    assert CausalLM(sft).context == 96


@pytest.mark.parametrize("name", ["sft", "reward", "dpo", "kto"])
def test_the_shipped_configs_are_whole(inputs, tmp_path, name, capsys):
    data = inputs / ("rankings.jsonl" if name == "reward" else "pairs.jsonl")
    argv = ["train", f"configs/text_{name}.yaml", f"data.path={data}", f"output={tmp_path / 'o'}", "data.max_length=96",
            f"model.path={inputs / 'lm'}", "--dry-run"]  # fmt: skip
    assert cli.run(argv) == 0
    assert "would train" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.max_length=4000", "data.max_length: 4000 is more than the 96 tokens"),
        ("data.max_length=6", "nothing to train on: 30 records, 30 left out for longer than data.max_length"),
        ("data.max_prompt_length=96", "must be below"),
        ("model.path=./nowhere", "model.path: ./nowhere: no such folder"),
        ("data.path=./nowhere", "no such file or folder"),
        ("loss.kind=simpo", "model.reference: this method or loss has no reference"),
        ("lora.rank=0", "`adapter` needs a LoRA"),
        ("modality=sound", "unknown modality 'sound'"),
        ("method=mapo", "method 'mapo' is of `modality: image`"),
        ("training.timestep_power=2", "training.timestep_power"),
        ("data.end_token=<end>", "data.end_token: '<end>' is no token"),
    ],
)
def test_mistakes_are_one_line(inputs, tmp_path, capsys, override, message):
    argv = ["train", "configs/text_dpo.yaml", f"data.path={inputs / 'pairs.jsonl'}", f"output={tmp_path / 'o'}",
            f"model.path={inputs / 'lm'}", "data.max_length=96", override, "--dry-run"]  # fmt: skip
    assert cli.run(argv) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""
    assert not (tmp_path / "o").exists()
