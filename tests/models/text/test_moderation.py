"""A tiny text classifier of transformers against its own logits, one text at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from text_samples import tokenizer

from diffdpo.errors import UserError
from diffdpo.models.text.moderation import TextClassifier

TEXTS = ["tea", "a much longer text about the sea", "rain"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    words, labels = tokenizer(), {0: "fine", 1: "rude", 2: "violent"}
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64, pad_token_id=0, id2label=labels, initializer_range=0.5,
    )  # fmt: skip
    place = tmp_path_factory.mktemp("classifier")
    LlamaForSequenceClassification(config).save_pretrained(place)
    words.save_pretrained(place)
    return place


def logits(model: TextClassifier, text: str) -> torch.Tensor:
    with torch.no_grad():
        return model.network(input_ids=torch.tensor([model.tokenizer(text)["input_ids"]])).logits[0].double()


def test_labels_that_exclude_each_other_are_summed(folder):
    model = TextClassifier(str(folder), ["rude", "violent"], batch_size=2)
    exact = [float(logits(model, text).softmax(0)[1:].sum()) for text in TEXTS]
    assert model.harm(TEXTS).tolist() == pytest.approx(exact, abs=1e-5)
    assert model.flagged(TEXTS) == [share >= 0.5 for share in exact]


def test_of_labels_that_stand_for_themselves_the_likeliest_counts(folder):
    model = TextClassifier(str(folder), ["fine"])
    model.multi_label, model.harmful = True, [0, 2]
    exact = [float(logits(model, text).sigmoid()[[0, 2]].max()) for text in TEXTS]
    assert model.harm(TEXTS).tolist() == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize(("labels", "message"), [([], "is not said"), (["mean"], "no label 'mean'")])
def test_the_harmful_labels_must_be_said(folder, labels, message):
    with pytest.raises(UserError, match=rf"{message}.*fine, rude, violent"):
        TextClassifier(str(folder), labels)
