"""How the tiny language model is trained: from an own tokenizer, and on from where it was stopped."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from transformers import AutoTokenizer

from diffdpo.words.build import language_model
from diffdpo.words.build.tokenizer import learn_merges, new_tokenizer
from diffdpo.words.weights import LANGUAGE_MODEL


def test_merges_are_those_of_the_papers_example():
    """Sennrich et al. 2016, section 3.2, without the end-of-word mark; ties by alphabet."""
    counts = Counter(low=5, lower=2, newest=6, widest=3)
    assert learn_merges(counts, 4) == [("e", "s"), ("es", "t"), ("l", "o"), ("lo", "w")]


def test_merging_ends_when_every_word_is_one_token():
    assert learn_merges(Counter(ab=1, b=3), 100) == [("a", "b")]


def test_the_shipped_tokenizer_is_the_one_that_the_build_makes():
    shipped, made = AutoTokenizer.from_pretrained(LANGUAGE_MODEL), new_tokenizer()
    assert shipped.get_vocab() == made.get_vocab()
    text = "Review of the blue kettle. It isn't bad."
    assert shipped(text).input_ids == made(text).input_ids


def test_a_build_that_was_stopped_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(LANGUAGE_MODEL)
    for name in ("straight", "stopped"):
        (tmp_path / name).mkdir()

    def train(name: str):
        return language_model.train_language_model(tokenizer, tmp_path / name, 0, 6, batch=2, save_every=3)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(language_model, "perplexity", lambda *_: 1.0)
    straight = train("straight").state_dict()
    monkeypatch.setattr(language_model, "perplexity", stop)
    with pytest.raises(KeyboardInterrupt):
        train("stopped")
    monkeypatch.setattr(language_model, "perplexity", lambda *_: 1.0)
    resumed = train("stopped").state_dict()
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)


def test_the_error_counts_the_end_token_and_no_padding():
    tokenizer = AutoTokenizer.from_pretrained(LANGUAGE_MODEL)
    torch.manual_seed(0)
    model = language_model.new_model(tokenizer).double().eval()
    texts = ["Grass is green.", "Cows moo. Snow is white."]
    together = language_model.token_errors(model, language_model.encode(tokenizer, texts))
    alone = [language_model.token_errors(model, language_model.encode(tokenizer, [text])) for text in texts]
    assert len(together) == sum(len(tokenizer(text).input_ids) for text in texts)  # less the start, plus the end
    torch.testing.assert_close(together, torch.cat(alone))
