"""A folder of answers: what each line is a function of, going on, the best of several."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from ppo_samples import write_inputs

from diffdpo import cli
from diffdpo.data.text.readers import open_text
from diffdpo.errors import UserError
from diffdpo.labeling.answers import best, ranks
from diffdpo.words.reward import reward


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("answers"))


def generate(inputs: Path, out: Path, *further: str) -> int:
    given = ["--model", str(inputs / "lm"), "--prompts", str(inputs / "prompts.jsonl"), "--out", str(out)]
    return cli.run(["generate", *given, "--max-tokens", "16", *further])


SHORT = ("--answers", "4", "--max-tokens", "8")


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for file in sorted(out.glob("*.jsonl")) for line in file.read_text().splitlines()]


def test_answers_are_records_and_functions_of_prompt_draw_and_seed(inputs, tmp_path, capsys):
    assert generate(inputs, tmp_path / "three", "--answers", "3", "--dry-run") == 0
    assert "would write 72 lines" in capsys.readouterr().out
    assert not (tmp_path / "three").exists()
    assert generate(inputs, tmp_path / "three", "--answers", "3") == 0
    assert generate(inputs, tmp_path / "one", "--batch-size", "5") == 0
    three, one = lines(tmp_path / "three"), lines(tmp_path / "one")
    assert three[::3] == one
    assert len({row["completion"] for row in three}) > 50
    assert len(open_text(tmp_path / "three").records) == 72
    assert generate(inputs, tmp_path / "other", "--seed", "1") == 0
    assert lines(tmp_path / "other") != one
    repeated = tmp_path / "repeated.txt"
    repeated.write_text("0: tea?\n0: tea?\n0: tea?\n")
    assert generate(inputs, tmp_path / "repeated", "--prompts", str(repeated)) == 0
    assert lines(tmp_path / "repeated") == three[:3]


def test_it_writes_what_is_missing_and_refuses_other_settings(inputs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("diffdpo.labeling.answers.SHARD", 10)
    assert generate(inputs, tmp_path / "out") == 0
    whole, second = lines(tmp_path / "out"), tmp_path / "out" / "answers-00001.jsonl"
    second.unlink()
    manifest = tmp_path / "out" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "complete": False}))
    first = (tmp_path / "out" / "answers-00000.jsonl").stat().st_mtime_ns
    assert generate(inputs, tmp_path / "out") == 0
    assert lines(tmp_path / "out") == whole
    assert (tmp_path / "out" / "answers-00000.jsonl").stat().st_mtime_ns == first
    assert generate(inputs, tmp_path / "out", "--temperature", "0.5") == 2
    assert "temperature: there 1.0, now 0.5" in capsys.readouterr().err


@pytest.fixture(scope="module")
def groups(inputs, tmp_path_factory) -> list[list[dict]]:
    """Four answers to each prompt, some of which end."""
    out = tmp_path_factory.mktemp("all") / "out"
    assert generate(inputs, out, *SHORT) == 0
    rows = lines(out)
    return [rows[first : first + 4] for first in range(0, len(rows), 4)]


def test_the_best_of_those_that_ended_is_kept(inputs, tmp_path, groups, capsys):
    assert generate(inputs, tmp_path / "best", *SHORT, "--best-by", "words") == 0
    kept = lines(tmp_path / "best")
    assert len(kept) == 24
    for row, group in zip(kept, groups, strict=True):
        ended = [one for one in group if one["ended"]] or group
        assert row["reward"] == max(reward(one["prompt"] + one["completion"]) for one in ended)
        assert row["completion"] in [one["completion"] for one in ended]
    none = sum(not any(one["ended"] for one in group) for group in groups)
    assert none > 1
    assert f"{none} of them did not end within --max-tokens" in capsys.readouterr().out


def test_a_ranking_of_those_that_ended_can_be_learnt_from(inputs, tmp_path, groups, capsys):
    for _ in range(2):  # made, and found done
        assert generate(inputs, tmp_path / "ranked", *SHORT, "--rank-by", "words") == 0
        told = capsys.readouterr().out
    records = open_text(tmp_path / "ranked").records
    ended = [some for some in ([one for one in group if one["ended"]] for group in groups) if len(some) > 1]
    assert {len(some) for some in ended} == {2, 3}
    assert f"{96 - sum(map(len, ended))} answers are in no ranking" in told
    for record, group in zip(records, ended, strict=True):
        assert record.prompt == group[0]["prompt"]
        assert list(record.answers) == [one["completion"] for one in group]
        values = [reward(one["prompt"] + one["completion"]) for one in group]
        for one, rank in zip(values, record.ranks, strict=True):
            assert rank == 1 + len({value for value in values if value > one})


def test_the_best_is_the_first_of_equal_ones_and_no_number_is_refused():
    assert best([1.0, 3.0, 3.0, 2.0]) == 1
    assert ranks([1.0, 3.0, 3.0, 2.0]) == [3, 1, 1, 2]
    for function in (best, ranks):
        with pytest.raises(UserError, match="the reward gave nan"):
            function([1.0, math.nan])


@pytest.mark.parametrize(
    ("further", "message"),
    [
        (["--answers", "0"], "--answers 0: at least 1"),
        (["--rank-by", "words"], "--answers 1: a ranking needs at least 2"),
        (["--best-by", "wordz"], "unknown reward 'wordz'"),
        (["--top-p", "0"], "top_p: must lie in (0, 1]"),
        (["--max-tokens", "90"], "prompts.jsonl: line 1: a prompt of 7 tokens and an answer of 90 are more than"),
        (["--max-tokens", "90", "--dry-run"], "prompts.jsonl: line 1: a prompt of"),
        (["--end-token", "<end>"], "'<end>' is no token"),
        (["--lora", "./nowhere"], "./nowhere: no LoRA of this language model"),
    ],
)
def test_mistakes_are_one_line(inputs, tmp_path, capsys, further, message):
    assert generate(inputs, tmp_path / "out", *further) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
