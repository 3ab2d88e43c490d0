"""Answers drawn by our own loop: what they are a function of, and that their likelihoods are the training's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from diffdpo.errors import UserError
from diffdpo.models.text.causal_lm import CausalLM
from diffdpo.models.text.generation import Answer, Decoding, answer_text, generate, nucleus, pick

sys.path.insert(0, str(Path(__file__).parents[2]))
from text_samples import language_model

from diffdpo.data.text.batch import pad
from diffdpo.data.text.tokens import Tokens

PROMPTS = [[5, 9, 7, 30], [8], [40, 41, 42, 43, 44, 45, 46], [12, 13], [60, 8, 9]]
SEEDS = [11, 12, 13, 14, 15]
END = 2


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request, tmp_path_factory) -> CausalLM:
    return CausalLM(str(language_model(tmp_path_factory.mktemp("lm"), request.param)))


def answers(model: CausalLM, places: list[int], **decoding) -> list[Answer]:
    how = Decoding(**{"max_tokens": 24, **decoding})
    return generate(model.lm, [PROMPTS[p] for p in places], [SEEDS[p] for p in places], how, end=END, filler=0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_those_that_an_update_computes(model, temperature):
    """Left padding and cached keys here, right padding and one pass there."""
    found = answers(model, [0, 1, 2, 3, 4], temperature=temperature, batch_size=3)
    batch = pad([tokens(p, answer) for p, answer in zip(PROMPTS, found, strict=True)], 0)
    with torch.no_grad():
        logps = model.network(batch.ids, batch.mask, batch.completion, temperature=temperature)
    for row, answer in enumerate(found):
        torch.testing.assert_close(logps[row][batch.completion[row]], torch.tensor(answer.logps), atol=1e-5, rtol=0)


def tokens(prompt: list[int], answer: Answer) -> Tokens:
    return Tokens((*prompt, *answer.ids), (*[False] * len(prompt), *[True] * len(answer.ids)))


def test_an_answer_is_a_function_of_prompt_and_seed(model):
    whole = answers(model, [0, 1, 2, 3, 4])
    assert len({answer.ids for answer in whole}) == 5
    for places in ([3, 1], [2], [4, 3, 2, 1, 0]):
        assert [a.ids for a in answers(model, places, batch_size=2)] == [whole[place].ids for place in places]
    assert generate(model.lm, PROMPTS[:1], [99], Decoding(24), end=END, filler=0)[0].ids != whole[0].ids


def test_the_likeliest_tokens_are_transformers_own(model):
    ids = torch.tensor([PROMPTS[0]])
    theirs = model.lm.generate(ids, do_sample=False, max_new_tokens=12, eos_token_id=END, pad_token_id=0)
    ours = answers(model, [0, 1, 2], temperature=0, max_tokens=12)[0]
    assert list(ours.ids) == theirs[0, 4 : 4 + len(ours.ids)].tolist()


def test_an_answer_stops_at_its_end_token_and_leaves_the_batch(model):
    whole = generate(model.lm, PROMPTS, SEEDS, Decoding(60), end=-1, filler=0)
    end = max(range(3, 250), key=lambda token: sum(token in answer.ids for answer in whole))
    found = generate(model.lm, PROMPTS, SEEDS, Decoding(60), end=end, filler=0)
    for answer, long in zip(found, whole, strict=True):
        assert answer.ended == (end in long.ids)
        assert answer.ids == (long.ids[: long.ids.index(end) + 1] if answer.ended else long.ids)
        assert len(answer.logps) == len(answer.ids)
    assert len({len(answer.ids) for answer in found}) > 2


def test_tokens_are_drawn_in_proportion_to_their_probability():
    logits = torch.tensor([0.0, 1.5, -2.0, 0.7, -30.0], dtype=torch.float64)
    grid = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    found, logps = pick(logits.repeat(20_000, 1), grid, 0.8)
    shares = torch.softmax(logits / 0.8, 0)
    torch.testing.assert_close(torch.bincount(found, minlength=5) / 20_000, shares.float(), atol=1e-4, rtol=0)
    torch.testing.assert_close(logps, shares.log()[found].float())


def test_the_nucleus_is_the_fewest_likeliest_tokens():
    shares = torch.tensor([[0.1, 0.4, 0.3, 0.2], [0.25, 0.25, 0.25, 0.25], [0.97, 0.01, 0.01, 0.01]])
    expected = torch.tensor([[0.0, 0.4, 0.3, 0.0], [0.25, 0.25, 0.25, 0.0], [0.97, 0.0, 0.0, 0.0]])
    assert torch.equal(nucleus(shares, 0.65), expected)
    assert nucleus(shares, 1.0) is shares
    tokens, _ = pick(shares.log().repeat(400, 1), torch.linspace(0, 0.999, 1200, dtype=torch.float64), 1.0, 0.65)
    assert set(tokens[::3].tolist()) == {1, 2}


def test_training_mode_and_checkpointed_activations_do_no_harm(model):
    expected = answers(model, [0, 1])
    model.enable_gradient_checkpointing()
    assert [answer.ids for answer in answers(model, [0, 1])] == [answer.ids for answer in expected]
    assert model.network.lm.training
    model.network.eval()


def test_no_answer_is_longer_than_the_model_was_made_for(model):
    with pytest.raises(UserError, match="may have 107 tokens, more than the model's 96"):
        answers(model, [2], max_tokens=100)


def test_the_text_of_an_answer_is_what_it_adds(model):
    words = model.tokenizer
    prompt = words("the sea")["input_ids"]
    whole = words("the sea, to the")["input_ids"]
    assert answer_text(words, prompt, [*whole[len(prompt) :], END]) == ", to the"
    assert answer_text(words, prompt, [END]) == ""


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"temperature": -1}, {"top_p": 0}, {"batch_size": 0}])
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Decoding(**wrong)
