"""The model card: what is in it comes from the run's record, and what the record does not tell is not in it."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import ModelCard

from diffdpo.models.export.form import Form
from diffdpo.training.image.card import Record, card

FAMILY = "StableDiffusionXLPipeline"


@pytest.fixture
def run(tmp_path):
    """A run's folder as training leaves it, with changes to its config and results."""

    def make(path="someone/some-model", method="dpo", rank=8, results=True):
        config = {
            "method": method,
            "seed": 7,
            "model": {"path": path},
            "data": {"path": "pairs", "size": 512},
            "training": {
                "steps": 400,
                "batch_size": 4,
                "accumulation": 16,
                "learning_rate": 1e-5,
                "schedule": "cosine",
                "warmup_steps": 20,
                "optimizer": "adamw",
                "precision": "bf16",
                "ema": None,
            },
            "loss": {"beta": 5000.0, "kind": "sigmoid", "winner_safeguard": None},
            "lora": {"rank": rank, "alpha": 0.0},
        }
        content = {"model": path if "/" in path and not path.startswith("/") else "a1b2", "data": "c3d4"}
        manifest = {
            "command": "train",
            "complete": results,
            "settings": {"content": content, "training": {"batch_size": 128, "accumulation": 1}},
            "inputs": {},
            "versions": {"diffdpo": "0.1", "torch": "2.15.0"},
        }
        if results:
            manifest["results"] = {"pairs": 950, "held_out_pairs": 50, "labelers": ["pickscore"]}
        rows = [{"step": 200, "eval/accuracy": 0.61}, {"step": 300, "loss": 0.6}, {"step": 400, "eval/accuracy": 0.64}]
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path

    return make


def parsed(text):
    found = ModelCard(text)
    return found.data.to_dict(), found.text


def test_the_hubs_part_names_the_base_and_the_kind(run):
    data, _ = parsed(card(Record.read(run(), 400), Form(), FAMILY, "mine"))
    assert data["base_model"] == "someone/some-model"
    assert data["base_model_relation"] == "adapter"
    assert data["library_name"] == "diffusers"
    assert data["pipeline_tag"] == "text-to-image"
    assert {"lora", "stable-diffusion-xl", "dpo", "arxiv:2311.12908"} <= set(data["tags"])


def test_a_merged_lora_is_no_adapter(run):
    data, text = parsed(card(Record.read(run(), 400), Form("single-file", merge=True, name="mine"), FAMILY, "mine"))
    assert data["base_model_relation"] == "finetune"
    assert "lora" not in data["tags"]
    assert (
        f'{FAMILY}.from_single_file("PATH/TO/THIS/FOLDER/mine.safetensors", config="PATH/TO/THIS/FOLDER/mine")' in text
    )


@pytest.mark.parametrize(
    "fact",
    [
        "Diffusion-DPO (Wallace et al. 2023)",
        "| loss: beta | 5000 |",
        "| loss: kind | sigmoid |",
        "| preference pairs, SHA-256 | c3d4 |",
        "| pairs trained on | 950 |",
        "| labeled by | pickscore |",
        "| steps | 400 of 400 |",
        "| pairs per step | 128 |",
        "| learning rate | 1e-05, cosine |",
        "| LoRA rank | 8 |",
        "| LoRA alpha | 8 |",
        "| seed | 7 |",
        "**64.0%** of 50 pairs",
        "torch 2.15.0",
        'pipeline.load_lora_weights("PATH/TO/THIS/FOLDER")',
        'from_pretrained("someone/some-model")',
        "- No measurement of its images is recorded here.",
    ],
)
def test_facts_of_the_record(run, fact):
    assert fact in card(Record.read(run(), 400), Form(), FAMILY, "mine")


def test_what_is_not_known_is_left_out(run):
    text = card(Record.read(run(results=False, rank=0), 150), Form(), FAMILY, "mine")
    for word in (
        "pairs trained on",
        "held-out pairs",
        "labeled by",
        "LoRA",
        "average",
        "safeguard",
        "None",
        "Held-out",
    ):
        assert word not in text, word


def test_figures_of_later_steps_are_not_these_weights(run):
    assert "**61.0%** of 50 pairs that were not trained on, at step 200." in card(
        Record.read(run(), 300), Form(), FAMILY, "mine"
    )


def test_a_local_base_is_told_by_name_and_content_alone(run):
    data, text = parsed(card(Record.read(run(path="/home/me/secret/base.safetensors"), 400), Form(), FAMILY, "mine"))
    assert "base_model" not in data
    assert "`base.safetensors`" in text
    assert "| base model, SHA-256 | a1b2 |" in text
    assert "secret" not in text


def test_an_evaluation_takes_the_place_of_the_sentence_that_there_is_none(run):
    text = card(Record.read(run(), 400), Form(), FAMILY, "mine", ["| exact | 40% | 50% |"])
    assert "## Evaluation\n\n| exact | 40% | 50% |" in text
    assert "No measurement" not in text


@pytest.mark.parametrize(
    ("family", "form", "words", "library"),
    [
        (FAMILY, Form("kohya", name="mine"), 'weight_name="mine.safetensors"', "diffusers"),
        (FAMILY, Form("kohya", name="mine"), "`models/Lora`", "diffusers"),
        ("StableDiffusion3Pipeline", Form("kohya", name="mine"), "diffusers does not read this form", None),
    ],
)
def test_how_each_form_is_loaded(run, family, form, words, library):
    data, text = parsed(card(Record.read(run(), 400), form, family, "mine"))
    assert words in text
    assert data.get("library_name") == library


@pytest.mark.parametrize(
    ("method", "words"),
    [("kto", "more than towards the other one"), ("mapo", "closer to"), ("sft", "closer to")],
)
def test_the_accuracy_is_told_as_each_method_means_it(run, method, words):
    assert words in card(Record.read(run(method=method), 400), Form(), FAMILY, "mine")
