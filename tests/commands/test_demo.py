"""What the demo prints: the report's own numbers, under the names that programs rely on."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

import pytest

from diffdpo.commands import demo
from diffdpo.config import load_config
from diffdpo.errors import UserError
from diffdpo.runs import is_complete

ROOT = Path(__file__).parents[2]

CONTRAST = {
    "a": {"mean": 0.40},
    "b": {"mean": 0.55},
    "difference": {"mean": 0.15, "interval": {"low": 0.101, "high": 0.199}},
    "wins": {"rate": {"mean": 0.64, "interval": {"low": 0.58, "high": 0.70}}},
}
REPORT = {
    "comparison": {
        "prompts": 320,
        "parts": {"exact": {"contrast": CONTRAST}},
        "scores": {demo.JUDGE: {"contrast": CONTRAST}, demo.LABELER: {"contrast": {}}},
    }
}


def test_figures_come_from_the_report(tmp_path, capsys):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.json").write_text(json.dumps(REPORT))
    figures = demo._figures(tmp_path)
    assert figures == {
        "exact_before": 0.40,
        "exact_after": 0.55,
        "exact_gain_ci": [0.101, 0.199],
        "judge_win_rate": 0.64,
        "judge_win_rate_ci": [0.58, 0.70],
        "captions": 320,
    }
    demo.show({**figures, "seconds": 421.4, "report": "runs/demo/report/report.html"})
    printed = capsys.readouterr().out
    assert "40.0%    55.0%    +15.0 points (+10.1 to +19.9)" in printed
    assert "64.0%    (58.0% to 70.0%; 50% is no change)" in printed
    assert "421 s" in printed


def test_the_judge_is_not_the_labeler_and_the_seed_reaches_every_step(tmp_path):
    steps = demo.commands(tmp_path, seed=7)
    assert [step[0] for step in steps] == ["label", "train", "bench", "bench", "report"]
    assert demo.JUDGE != demo.LABELER
    label, train, before, after, _ = map(shlex.join, steps)
    assert "--seed 7" in label
    assert "seed=7" in train
    # Before and after are told apart by the model alone.
    assert before.replace("before", "x").split("--model")[0] == after.replace("after", "x").split("--model")[0]


def test_prompts_are_train_captions_without_repeats(tmp_path):
    from diffdpo.shapes.scene import parse_caption

    demo.write_prompts(tmp_path / "prompts.txt", seed=0)
    lines = (tmp_path / "prompts.txt").read_text().splitlines()
    assert len(lines) == len(set(lines)) == demo.PROMPTS
    assert not any(parse_caption(line).held_out for line in lines)


@pytest.mark.parametrize("seed", [-1, 2**31 + 1])
def test_a_seed_that_training_would_refuse_is_refused_at_once(tmp_path, seed):
    with pytest.raises(UserError, match=f"--seed {seed}: must be between 0 and 2147483648"):
        demo.run(argparse.Namespace(world="images", out=str(tmp_path / "out"), seed=seed, dry_run=False))
    assert not (tmp_path / "out").exists()


def test_the_shipped_recipe_is_used_whatever_lies_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert demo.commands(tmp_path, seed=0)[1][1] == "configs/shapes_dpo.yaml"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "shapes_dpo.yaml").write_text("output: elsewhere\n")
    assert load_config(demo.commands(tmp_path, seed=0)[1][1], ["output=o", "data.path=d"]).output == "o"
    assert demo.commands(tmp_path, seed=0)[1][1] == str(ROOT / "configs" / "shapes_dpo.yaml")


def test_the_folder_is_complete_at_the_end_and_not_before(tmp_path, monkeypatch):
    def step(number, of, argv):
        assert not is_complete(tmp_path / "out")
        (tmp_path / "out" / "report").mkdir(exist_ok=True)
        (tmp_path / "out" / "report" / "report.json").write_text(json.dumps(REPORT))
        return {"report": "r"}

    monkeypatch.setattr(demo, "call", step)
    found = demo.run(argparse.Namespace(world="images", out=str(tmp_path / "out"), seed=0, dry_run=False))
    assert found["captions"] == 320
    assert is_complete(tmp_path / "out")
    with pytest.raises(UserError, match="seed: there 0, now 1"):
        demo.run(argparse.Namespace(world="images", out=str(tmp_path / "out"), seed=1, dry_run=True))
