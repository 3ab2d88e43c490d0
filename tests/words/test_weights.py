"""The language model that ships with the package: its layout, its size, and what it can do."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from diffdpo.words.build.language_model import held_out, perplexity
from diffdpo.words.corpus import draw_texts
from diffdpo.words.reading import read
from diffdpo.words.review import all_prompts
from diffdpo.words.weights import FOLDER, LANGUAGE_MODEL, resolve_model


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(LANGUAGE_MODEL).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(LANGUAGE_MODEL)


def test_its_files_are_small_and_no_pickles():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 4e6
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert not [path for path in files if path.suffix == ".json" and "_name_or_path" in path.read_text()]


def test_a_plain_load_gives_what_can_be_trained_on_a_cpu(model):
    assert type(model).__name__ == "LlamaForCausalLM"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_its_special_tokens_are_three_and_the_model_knows_them(model, tokenizer):
    ids = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert len(set(ids)) == 3
    for config in (model.config, model.generation_config):
        assert (config.pad_token_id, config.bos_token_id, config.eos_token_id) == ids


@pytest.mark.parametrize("text", [*draw_texts(5, seed=9), "Größe, naïve: 12 % \n\t of\u00a0it 🙂 don't", ""])
def test_any_text_comes_back_from_its_tokens(tokenizer, text):
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_nearly_every_word_of_the_world_is_one_token(tokenizer):
    for source in ("reviews", "general"):
        texts = held_out(source, 300)
        words = sum(len(text.replace(".", " .").replace(",", " ,").split()) for text in texts)
        assert sum(len(tokenizer(text).input_ids) for text in texts) < 1.2 * words


@pytest.mark.parametrize(("source", "bound"), [("reviews", 3.6), ("general", 2.2)])
def test_it_knows_held_out_texts(model, tokenizer, source, bound):
    assert perplexity(model, tokenizer, held_out(source, 100)) < bound


@torch.inference_mode()
def test_its_answers_end_and_many_are_wholly_understood(model, tokenizer):
    torch.manual_seed(0)
    prompts = [str(prompt) for prompt in all_prompts(held_out=True)[::9]]
    tokens = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    ids = model.generate(**tokens, do_sample=True, top_k=0, max_new_tokens=100)
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    assert sum(read(text).understood for text in texts) > 0.3 * len(texts)
    assert (ids == tokenizer.eos_token_id).any(dim=1).float().mean() > 0.9


def test_the_name_words_means_its_folder():
    assert resolve_model("words") == str(LANGUAGE_MODEL)
    assert resolve_model("some/model") == "some/model"
