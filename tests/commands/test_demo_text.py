"""The text demo: the commands it is made of, and what it prints."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from diffdpo import cli
from diffdpo.commands import demo_text
from diffdpo.config import load_config
from diffdpo.recipes import find_config

POINT = {"method": "ppo", "setting": "", "reward": 3.4, "reward_low": 3.1, "reward_high": 3.7, "kl": 9.8}


def test_every_step_is_a_shipped_recipe_with_the_seed_and_the_results_before_it(tmp_path, capsys):
    assert cli.run(["demo", "text", "--out", str(tmp_path / "out"), "--seed", "7", "--dry-run", "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)["commands"]
    configs = []
    (ranked,) = [shlex.split(line) for line in lines if line.startswith("diffdpo generate ")]
    for line in lines:
        program, verb, config, *overrides = shlex.split(line)
        if verb != "generate":
            assert (program, verb) == ("diffdpo", "train")
            configs.append(load_config(find_config(config), overrides))
    assert [config.method for config in configs] == ["sft", "reward", "ppo", "ppo", "dpo"]
    assert {config.seed for config in configs} == {7}
    assert configs[0].model.path == "words"
    sft, reward = Path(configs[0].output) / "model", Path(configs[1].output) / "reward"
    assert {config.model.path for config in configs[1:]} == {str(sft)}
    assert {config.reward.source for config in configs[2:4]} == {str(reward)}
    assert [config.ptx.path is None for config in configs[2:4]] == [True, False]
    # DPO learns from answers of the very model that it starts from.
    assert ranked[ranked.index("--model") + 1] == str(sft)
    assert ranked[ranked.index("--out") + 1] == configs[4].data.path
    # PPO-ptx differs from PPO in the texts alone.
    assert configs[2].loss == configs[3].loss
    assert configs[2].training == configs[3].training
    assert not (tmp_path / "out").exists()


def test_data_is_written_once(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_text, "SIZES", dict.fromkeys(demo_text.SIZES, 3))
    demo_text.write_data(tmp_path, seed=0)
    first = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.jsonl")}
    assert len(first) == 2 * len(demo_text.SIZES)
    demo_text.write_data(tmp_path, seed=0)
    assert {path: path.stat().st_mtime_ns for path in first} == first


def test_the_table_has_a_line_per_point(capsys):
    points = [{**POINT, "perplexity": 2.1}, {**POINT, "method": "best of n", "setting": "n 4", "perplexity": ""}]
    demo_text.show({"points": points, "plot": "runs/demo-text/frontier.svg", "seconds": 600.4})
    printed = " ".join(capsys.readouterr().out.split())
    assert "ppo 3.40 (3.10 to 3.70) 9.80 2.100 best of n n 4 3.40 (3.10 to 3.70) 9.80 plot" in printed
    assert "plot: runs/demo-text/frontier.svg (600 s)" in printed
