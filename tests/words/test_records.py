"""The data makers: true to the reward, split by subject, the same from the same seed."""

from __future__ import annotations

import json

import pytest

from diffdpo.words.records import MAKERS, draw_records, write_records
from diffdpo.words.reward import reward
from diffdpo.words.subjects import split_subjects


def test_the_chosen_answer_is_the_better_one():
    for record in draw_records("pairs", 100, seed=0):
        assert reward(record["prompt"] + record["chosen"]) > reward(record["prompt"] + record["rejected"])


def test_ranks_follow_the_reward_and_equals_share_one():
    ties, sizes = 0, set()
    for record in draw_records("rankings", 100, seed=0):
        values = [reward(record["prompt"] + answer) for answer in record["answers"]]
        for a, rank_a in zip(values, record["ranks"], strict=True):
            for b, rank_b in zip(values, record["ranks"], strict=True):
                assert (a > b) == (rank_a < rank_b)
        assert len(set(record["answers"])) == len(values)
        sizes.add(len(values))
        ties += len(set(values)) < len(values)
    assert sizes == {4, 5, 6, 7, 8, 9}
    assert ties > 5


def test_some_answers_are_flawed():
    answers = [answer for record in draw_records("rankings", 50, seed=1) for answer in record["answers"]]
    unfinished = sum(not answer.endswith(".") for answer in answers) / len(answers)
    assert 0.02 < unfinished < 0.1


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind != "texts"])
def test_held_out_records_are_of_held_out_subjects(kind):
    for held_out in (False, True):
        headings = {subject.heading for subject in split_subjects(held_out=held_out)}
        for record in draw_records(kind, 50, seed=0, held_out=held_out):
            assert record["prompt"].partition(".")[0] + "." in headings


def test_a_completion_begins_with_the_space_that_its_prompt_lacks():
    for record in draw_records("demonstrations", 50, seed=0):
        assert record["completion"].startswith(" ")
        assert record["prompt"] == record["prompt"].strip()


def test_files_are_the_same_from_the_same_seed(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_records(tmp_path / name, dict.fromkeys(MAKERS, 5), seed=seed, n_held_out=3)
    for kind, n in (("pairs", 5), ("rankings", 5), ("demonstrations", 5), ("texts", 5), ("prompts", 5)):
        a, b, c = ((tmp_path / name / kind / "train.jsonl").read_bytes() for name in "abc")
        assert a == b != c
        assert len([json.loads(line) for line in a.splitlines()]) == n
        assert len((tmp_path / "a" / kind / "test.jsonl").read_bytes().splitlines()) == 3
