"""openclip.py: architectures by name and by JSON, their tokenizers, and no trace left in open_clip."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from scorer_samples import OPEN_CLIP_CONFIG

from scorers import ScorerError
from scorers.openclip import build_model, build_tokenizer, read_architecture

LONG = "a very long prompt " * 40


def written(folder: Path, name: str = "tiny.json", **text: Any) -> str:
    """The small config as a JSON file, with other text settings."""
    config = copy.deepcopy(OPEN_CLIP_CONFIG)
    config["text_cfg"] |= text
    (folder / name).write_text(json.dumps(config))
    return str(folder / name)


def test_a_built_in_name() -> None:
    architecture = read_architecture("ViT-H-14")
    assert (architecture.image_size, architecture.context_length) == (224, 77)
    assert architecture.mean == (0.48145466, 0.4578275, 0.40821073)


def test_image_size_and_context_come_from_the_file(tmp_path: Path) -> None:
    architecture = read_architecture(written(tmp_path, context_length=9))
    assert (architecture.image_size, architecture.context_length) == (32, 9)


def test_pixel_statistics_come_from_the_file(tmp_path: Path) -> None:
    content = {"model_cfg": OPEN_CLIP_CONFIG, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
    architecture = read_architecture(str(tmp_path / "open_clip_config.json"))
    assert (architecture.mean, architecture.std) == ((0.5,) * 3, (0.25,) * 3)


def test_the_registry_of_open_clip_is_not_touched(tmp_path: Path) -> None:
    before = open_clip.list_models()
    architecture = read_architecture(written(tmp_path))
    build_model(architecture)
    build_tokenizer(architecture)
    assert open_clip.list_models() == before
    assert open_clip.get_model_config("tiny") is None


def test_building_does_not_change_the_architecture(tmp_path: Path) -> None:
    path = tmp_path / "custom.json"
    path.write_text(json.dumps({**OPEN_CLIP_CONFIG, "custom_text": True}))
    architecture = read_architecture(str(path))
    before = copy.deepcopy(architecture.config)
    build_model(architecture)
    build_tokenizer(architecture)
    assert architecture.config == before


def test_tokens_are_cut_with_the_end_token_last(tmp_path: Path) -> None:
    tokens = build_tokenizer(read_architecture(written(tmp_path)))(["a", LONG])
    assert tokens.shape == (2, 16)
    assert tokens[1, -1] == 49407
    assert tokens[0].tolist() == [49406, 320, 49407] + [0] * 13


def test_tokens_of_a_built_in_name_are_open_clips_own() -> None:
    ours = build_tokenizer(read_architecture("ViT-H-14"))
    assert torch.equal(ours([LONG]), open_clip.tokenize([LONG]))


def test_a_tokenizer_folder_beside_the_file(clip_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "words").symlink_to(clip_folder)
    tokenizer = build_tokenizer(read_architecture(written(tmp_path, hf_tokenizer_name="words", vocab_size=514)))
    assert tokenizer(["ab"])[0, :4].tolist() == [512, *(tokenizer(["ab"])[0, 1:3].tolist()), 513]


def test_a_text_tower_of_its_own_class_is_built(tmp_path: Path) -> None:
    path = tmp_path / "custom.json"
    path.write_text(json.dumps({**OPEN_CLIP_CONFIG, "custom_text": True}))
    assert type(build_model(read_architecture(str(path)))).__name__ == "CustomTextCLIP"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "'embed_dim' is missing"),
        ('{"embed_dim": 32, "vision_cfg": {}}', "'text_cfg' is missing"),
        ('{"embed_dim": "32"}', "'embed_dim' is missing or not of type int"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "wrong.json").write_text(content)
    with pytest.raises(ScorerError, match=r"wrong\.json.*" + message):
        read_architecture(str(tmp_path / "wrong.json"))


@pytest.mark.parametrize(
    ("name", "message"), [("ViT-H14", "did you mean 'ViT-H-14'"), ("/nowhere/x.json", "no architecture file")]
)
def test_an_unknown_architecture(name: str, message: str) -> None:
    with pytest.raises(ScorerError, match=message):
        read_architecture(name)


def test_an_unknown_key_in_the_config(tmp_path: Path) -> None:
    with pytest.raises(ScorerError, match=r"tiny\.json is not valid: .*colour"):
        build_model(read_architecture(written(tmp_path, colour="blue")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"vocab_size": 100}, "49408 tokens, the model knows 100"),
        ({"hf_tokenizer_name": "./nowhere"}, "no tokenizer folder"),
        ({"hf_tokenizer_name": "empty"}, "cannot be loaded"),
    ],
)
def test_a_tokenizer_that_does_not_fit(tmp_path: Path, text: dict[str, Any], message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScorerError, match=message):
        build_tokenizer(read_architecture(written(tmp_path, **text)))
