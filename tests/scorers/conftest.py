"""Small models with random weights in the published layouts. No test reaches a network."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from imagereward_samples import BERT_WORDS, IMAGEREWARD_SIZES, published_state
from PIL import Image
from scorer_samples import KINDS, OPEN_CLIP_CONFIG, SIZE
from transformers import BertTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer


def _spread(model: torch.nn.Module) -> None:
    """Random weights large enough that different inputs get clearly different scores."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 or "class_embedding" in name:
            parameter.data.normal_(0, 0.2, generator=generator)


def _write_clip(folder: Path, width: int) -> Path:
    characters = list(open_clip.tokenizer.bytes_to_unicode().values())
    pieces = [*characters, *(c + "</w>" for c in characters), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[]).save_pretrained(folder)
    crop = {"height": SIZE, "width": SIZE}
    CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=crop).save_pretrained(folder)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {
        "bos_token_id": len(pieces) - 2,
        "eos_token_id": len(pieces) - 1,
        "pad_token_id": len(pieces) - 1,
    }
    text = {**tower, **special, "vocab_size": len(pieces), "max_position_embeddings": 77}
    vision = {**tower, "image_size": SIZE, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=width, logit_scale_init_value=4.6052)
    model = CLIPModel(config)
    _spread(model)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformers CLIPModel folder with its own PIL image processor and byte-level tokenizer."""
    return _write_clip(tmp_path_factory.mktemp("clip"), width=32)


@pytest.fixture(scope="session")
def wide_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with embeddings of 768, as CLIP L/14 has them and the published aesthetic heads read them."""
    return _write_clip(tmp_path_factory.mktemp("wide"), width=768)


@pytest.fixture(scope="session")
def imagereward_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ImageReward.pt` in the published layout with small random weights, `tiny.json` and a BERT tokenizer."""
    folder = tmp_path_factory.mktemp("imagereward")
    torch.save(published_state(), folder / "ImageReward.pt")
    (folder / "tiny.json").write_text(json.dumps(IMAGEREWARD_SIZES))
    BertTokenizer(vocab={word: index for index, word in enumerate(BERT_WORDS)}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def hps_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny.json` (an open_clip model config) and `HPS_v2_compressed.pt` with the key `state_dict`."""
    folder = tmp_path_factory.mktemp("hps")
    model = open_clip.CLIP(**OPEN_CLIP_CONFIG)
    _spread(model)
    torch.save({"state_dict": model.state_dict()}, folder / "HPS_v2_compressed.pt")
    (folder / "tiny.json").write_text(json.dumps(OPEN_CLIP_CONFIG))
    return folder


@pytest.fixture(params=list(KINDS))
def any_image(request: pytest.FixtureRequest) -> Image.Image:
    """One image of each kind, a fresh object for each test."""
    image: Image.Image = KINDS[request.param]()
    return image
