"""What several folders of tests share: a tiny model in the true file layout, and a small triplet store."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # no test reaches a network; read by the library as it is imported

import numpy as np
import pytest
import torch
from PIL import Image

from diffdpo.data.triplets import Pair, write_pairs

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion pipeline of random weights, 16 x 16 pixels."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("models")
    letters = list("abcdefghijklmnopqrstuvwxyz")
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "tiny")
    return folder / "tiny"


@pytest.fixture(scope="session")
def write_store() -> Callable[..., Path]:
    """Writes a store of random 16 x 16 pictures; every second one shares its caption with the one before."""

    def write(folder: Path, n: int, ties: tuple[int, ...] = (), seed: int = 0) -> Path:
        rng = np.random.default_rng(seed)
        folder.mkdir()
        write_pairs(folder, 0, [_pair(i, rng, tie=i in ties) for i in range(n)])
        return folder

    return write


@pytest.fixture
def make_store(tmp_path: Path, write_store: Callable[..., Path]) -> Callable[..., Path]:
    """The same, into the test's own folder."""

    def make(n: int = 12, ties: tuple[int, ...] = (), name: str = "pairs", seed: int = 0) -> Path:
        return write_store(tmp_path / name, n, ties, seed)

    return make


def _pair(number: int, rng: np.random.Generator, *, tie: bool) -> Pair:
    words = ("red", "blue", "old", "new", "big", "low")
    first_wins = number % 3 == 0
    return Pair(
        caption=f"a {words[number // 2 % 6]} thing {'in' * (number // 12)}".strip(),
        jpg_0=_png(rng),
        jpg_1=_png(rng),
        label_0=0.5 if tie else float(first_wins),
        label_1=0.5 if tie else float(not first_wins),
        pair_id=f"pair-{number}",
        prompt_id=f"prompt-{number // 2}",
        model_0="m",
        model_1="m",
        seed_0=number,
        seed_1=number + 100,
        labeler="test",
        margin=0.0 if tie else 0.1 + number,
    )


def _png(rng: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
