"""`scripts/bench_text.py`: both ways do the same work. How fast is for the script to say."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import pytest
from text_samples import language_model, pairs, write_jsonl


@pytest.fixture(scope="module")
def script():
    path = Path(__file__).parents[3] / "scripts" / "bench_text.py"
    spec = importlib.util.spec_from_file_location("bench_text", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_both_ways_have_one_loss_and_padding_takes_more_memory(script, tmp_path):
    model = language_model(tmp_path / "lm", context=256)
    rows = pairs(9)
    rows[4]["prompt"] *= 8
    data = write_jsonl(tmp_path / "pairs.jsonl", rows)
    args = argparse.Namespace(model=str(model), data=str(data), batch_size=3, rounds=3, seed=0)
    found = script.measure(args)
    assert found["largest_gap"] < 1e-5
    assert all(abs(loss - 0.6931) > 1e-4 for loss in found["losses"])  # the reference differs
    assert found["peak_mb"]["packed"] < found["peak_mb"]["padded"]
    script.show(found)


def test_drawn_pairs_are_as_long_as_the_table_says(script):
    drawn = script.drawn(2000, seed=0)
    prompts = sorted(len(e.answers[0].ids) - e.answers[0].n_completion for e in drawn)
    assert prompts[1000] == pytest.approx(script.PROMPT[script.SHARES.index(0.5)], abs=10)
    assert max(len(answer.ids) for example in drawn for answer in example.answers) <= 835 + 557
