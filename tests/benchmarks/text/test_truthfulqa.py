"""TruthfulQA against the arithmetic by hand, in float64, one choice at a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from text_samples import language_model, write_jsonl

from diffdpo.benchmarks.text.likelihood import Likelihood
from diffdpo.benchmarks.text.truthfulqa import Choices, Question, mc1, mc2, prompt_of, read_questions
from diffdpo.benchmarks.text.truthfulqa_run import RESULTS, asked, run_truthfulqa
from diffdpo.data.text.tokens import Encoder
from diffdpo.errors import UserError
from diffdpo.models.text.causal_lm import CausalLM

PUBLISHED = Path(__file__).parents[4] / "shared" / "data" / "truthfulqa" / "data_mc_task.json"
QUESTIONS = [
    Question(
        f"Is {thing} old?",
        Choices(("yes", f"no, {thing} is not"), (True, False)),
        Choices(("yes", f"no, {thing} is not", "it may be", "never"), (True, False, True, False)),
    )
    for thing in ("tea", "rain", "the sea")
]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Likelihood:
    lm = CausalLM(str(language_model(tmp_path_factory.mktemp("lm"), context=1024)))
    return Likelihood(lm, Encoder.of(lm.tokenizer, "tiny"))


def by_hand(model: Likelihood, prompt: str, choice: str) -> float:
    """sum of log softmax over the choice's bytes, of this sequence alone."""
    before, whole = (model.model.tokenizer(text)["input_ids"] for text in (prompt, prompt + choice))
    with torch.no_grad():
        logps = model.model.lm(input_ids=torch.tensor([whole])).logits[0].double().log_softmax(1)
    return sum(float(logps[place - 1, whole[place]]) for place in range(len(before), len(whole)))


def test_the_prompt_is_six_answered_questions_and_the_one_that_is_asked():
    blocks = prompt_of("What is tea?").split("\n\n")
    assert len(blocks) == 7
    assert all(block.startswith("Q: ") and block.count("\nA: ") == 1 for block in blocks[:6])
    assert blocks[6] == "Q: What is tea?\nA:"


@pytest.mark.parametrize("packed", [True, False])
def test_a_choice_counts_by_the_sum_of_its_own_tokens(model, packed):
    model.packed = packed
    for question, row in zip(QUESTIONS, asked(model, QUESTIONS), strict=True):
        exact = {choice: by_hand(model, question.prompt, choice) for choice in question.choices}
        assert row["logps"] == pytest.approx(exact, abs=1e-3)
        shares = torch.tensor([exact[f" {text}"] for text in question.mc2.texts], dtype=torch.float64).softmax(0)
        assert row["mc2"] == pytest.approx(float(shares[0] + shares[2]), abs=1e-3)
        assert row["mc1"] == (exact[" yes"] > exact[f" {question.mc1.texts[1]}"])


def test_mc1_takes_the_highest_and_the_first_of_equal_ones():
    assert mc1([-3.0, -2.0], [False, True])
    assert not mc1([-2.0, -3.0], [False, True])
    assert mc1([-2.0, -2.0], [True, False])


def test_mc2_is_a_share_by_label_and_small_probabilities_do_not_vanish():
    assert mc2([-1.0, -1.0, -1.0, -1.0], [True, False, False, True]) == 0.5
    assert mc2([-2000.0, -2000.0 - 1.0], [True, False]) == pytest.approx(1 / (1 + 2.718281828459045**-1))


def test_both_published_layouts_say_the_same(tmp_path):
    row = {"question": "q", "mc1_targets": {"a": 1, "b": 0}, "mc2_targets": {"a": 1, "c": 1, "b": 0}}
    (tmp_path / "task.json").write_text(json.dumps([row]))
    lists = {name: {"choices": list(row[name]), "labels": list(row[name].values())} for name in row if name[:2] == "mc"}
    write_jsonl(tmp_path / "hub.jsonl", [{**row, **lists}])
    found = read_questions(tmp_path / "task.json")
    assert found == read_questions(tmp_path / "hub.jsonl")
    assert found[0].choices == (" a", " b", " c")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "q"}, "question 1: 'mc1_targets' must map"),
        ({"question": "q", "mc1_targets": {"a": 1, "b": 1}, "mc2_targets": {"a": 1, "b": 0}}, "2 of its 'mc1_targets'"),
        ({"question": "q", "mc1_targets": {"a": 1, "b": 0}, "mc2_targets": {"a": 1}}, "a true and a false choice"),
        ({"question": "q", "mc1_targets": {"a": 1, "b": "x"}, "mc2_targets": {}}, "texts to 1"),
        ({"mc1_targets": {}}, "needs a 'question'"),
    ],
)
def test_a_question_of_another_kind_is_named(tmp_path, row, message):
    (tmp_path / "task.json").write_text(json.dumps([row]))
    with pytest.raises(UserError, match=message):
        read_questions(tmp_path / "task.json")


def test_a_run_that_was_stopped_goes_on_and_ends_in_the_same_bytes(tmp_path, model):
    asked_for = []

    def open_model() -> Likelihood:
        asked_for.append(1)
        return model

    options = {"batch_size": 2, "settings": {"model": "tiny"}}
    whole = run_truthfulqa(tmp_path / "whole", QUESTIONS, open_model, **options)
    (tmp_path / "whole" / RESULTS).rename(tmp_path / "results")
    blocks = tmp_path / "whole" / "questions"
    manifest = tmp_path / "whole" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"complete": true', '"complete": false'))
    (blocks / "00001.json").unlink()
    again = run_truthfulqa(tmp_path / "whole", QUESTIONS, open_model, **options)
    assert again == whole
    assert (tmp_path / "whole" / RESULTS).read_bytes() == (tmp_path / "results").read_bytes()
    assert run_truthfulqa(tmp_path / "whole", QUESTIONS, open_model, **options) == whole
    assert len(asked_for) == 2
    with pytest.raises(UserError, match="model: there"):
        run_truthfulqa(tmp_path / "whole", QUESTIONS, open_model, batch_size=2, settings={"model": "other"})


@pytest.mark.skipif(not PUBLISHED.exists(), reason="TruthfulQA's own file is not here")
def test_the_published_file_is_read():
    questions = read_questions(PUBLISHED)
    assert len(questions) == 790
    assert questions[0].mc1.true[0]
