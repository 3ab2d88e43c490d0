"""The authors' own example scores, with the published checkpoints.

Each test runs where the checkpoint is in the local hub cache and the authors' images lie in DIFFDPO_GOLDEN_DIR
(docs/scorers.md says under which names), and skips elsewhere.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from huggingface_hub import try_to_load_from_cache
from PIL import Image

import scorers

GOLDEN = os.environ.get("DIFFDPO_GOLDEN_DIR")


def opened(cached: list[tuple[str, str]], names: list[str]) -> list[Image.Image]:
    """The authors' images. Skips unless they are there and every (repository, file) is in the hub cache."""
    for repository, file in cached:
        if not isinstance(try_to_load_from_cache(repository, file), str):
            pytest.skip(f"{repository}/{file} is not in the hub cache")
    if GOLDEN is None:
        pytest.skip("DIFFDPO_GOLDEN_DIR is not set")
    return [Image.open(Path(GOLDEN) / name) for name in names]


def test_imagereward_scores_the_authors_examples() -> None:
    cached = [("THUDM/ImageReward", "ImageReward.pt"), ("bert-base-uncased", "tokenizer_config.json")]
    images = opened(cached, [f"imagereward/{number}.webp" for number in range(1, 5)])
    prompt = "a painting of an ocean with clouds and birds, day time, low depth field effect"
    scores = scorers.load("imagereward").score([prompt] * 4, images)
    # The authors computed on a GPU, whose convolutions round to TF32.
    torch.testing.assert_close(scores, torch.tensor([0.5812, 0.2745, -1.4132, -2.0296]), rtol=0, atol=0.01)


def test_hpsv2_scores_the_authors_example() -> None:
    images = opened([("xswu/HPSv2", "HPS_v2_compressed.pt")], ["hpsv2/demo_image.jpg"])
    score = scorers.load("hpsv2").score(["A cat with two horns on its head"], images)
    assert float(score) == pytest.approx(0.2876, abs=0.001)  # the authors computed in fp16, in steps of 0.00024
