"""Models of the text world on the frontier: what is measured, kept, and measured again."""

from __future__ import annotations

import itertools
import json
import math

import pytest

from diffdpo.commands import text_world


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(text_world, "PROMPTS", 6)
    monkeypatch.setattr(text_world, "TEXTS", 3)
    monkeypatch.setattr(text_world, "MAX_TOKENS", 24)


def test_the_best_of_more_is_never_worse_by_its_own_judge(tmp_path):
    """The first n of the same draws: prompt by prompt, none of them may win less than fewer do."""
    found = text_world.best_of_n("words", "words", (1, 2, 4), tmp_path, seed=0)
    assert [one.setting for one in found] == ["n 1", "n 2", "n 4"]
    for fewer, more in itertools.pairwise(found):
        assert all(a <= b for a, b in zip(fewer.rewards, more.rewards, strict=True))
    assert sum(found[2].rewards) > sum(found[0].rewards)
    assert [one.kls for one in found] == [[math.log(n) - (n - 1) / n] * 6 for n in (1, 2, 4)]
    # One answer to each prompt is what a model is measured by anyhow.
    assert (
        found[0].rewards == text_world.measure("words", "words", tmp_path / "a", method="", setting="", seed=0).rewards
    )


def test_what_was_measured_is_kept_until_the_model_is_another(tmp_path):
    kept = tmp_path / "run.json"
    text_world.measure("words", "words", kept, method="ppo", setting="", seed=0)
    marked = {**json.loads(kept.read_text()), "method": "kept"}
    kept.write_text(json.dumps(marked))
    assert text_world.measure("words", "words", kept, method="ppo", setting="", seed=0).method == "kept"
    kept.write_text(json.dumps({**marked, "of": "an earlier model"}))
    assert text_world.measure("words", "words", kept, method="ppo", setting="", seed=0).method == "ppo"
