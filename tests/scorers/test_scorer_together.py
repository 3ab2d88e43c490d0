"""together.py and the shared CLIP: the same scores to the bit, and each costly step done once."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from scorer_samples import many, noise, pairs
from torch import Tensor

import scorers
from scorers import ScorerError, base, hpsv2, shared
from scorers.aesthetic import Aesthetic
from scorers.base import BatchScorer
from scorers.clipscore import ClipScore
from scorers.hpsv2 import HPSv2
from scorers.imagereward import ImageReward
from scorers.images import to_pixels


@pytest.fixture
def head(tmp_path: Path) -> str:
    generator = torch.Generator().manual_seed(0)
    torch.save({"weight": torch.randn(1, 32, generator=generator), "bias": torch.ones(1)}, tmp_path / "head.pth")
    return str(tmp_path / "head.pth")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many images were prepared the CLIP way, and how many passed through a CLIP."""
    counts = {"prepared": 0, "encoded": 0}
    embed = shared.Backbone.embed

    def prepare(image: Image.Image) -> Tensor:
        counts["prepared"] += 1
        return to_pixels(image)

    def encode(self: shared.Backbone, pixels: Tensor) -> Tensor:
        counts["encoded"] += len(pixels)
        return embed(self, pixels)

    monkeypatch.setattr(shared, "to_pixels", prepare)
    monkeypatch.setattr(shared.Backbone, "embed", encode)
    return counts


def imagereward(folder: Path, **options: Any) -> ImageReward:
    return ImageReward(str(folder), architecture=str(folder / "tiny.json"), **options)


def test_together_equals_one_by_one_to_the_bit(
    clip_folder: Path, hps_folder: Path, imagereward_folder: Path, head: str
) -> None:
    prompts, images = pairs()
    everyone: list[Any] = [
        ClipScore(str(clip_folder)),
        HPSv2(str(hps_folder), architecture=str(hps_folder / "tiny.json")),
        Aesthetic(str(clip_folder), head=head),
        imagereward(imagereward_folder),
        scorers.load("pickscore", model=str(clip_folder)),
        ClipScore(str(clip_folder), batch_size=5),
    ]
    alone = [scorer.score(prompts, images) for scorer in everyone]
    together = scorers.score_many(everyone, prompts, images)
    assert len(together) == len(alone)
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one, other)


def test_one_clip_reads_an_image_once(clip_folder: Path, head: str, counted: dict[str, int]) -> None:
    prompts, images = many(70)
    pair = [ClipScore(str(clip_folder), batch_size=32), Aesthetic(str(clip_folder), head=head, batch_size=32)]
    scorers.score_many(pair, prompts, images)
    assert counted == {"prepared": 70, "encoded": 70}
    for scorer in pair:
        scorer.score(prompts, images)
    assert counted == {"prepared": 210, "encoded": 210}


def test_another_encoder_shares_the_preparation(
    clip_folder: Path, imagereward_folder: Path, counted: dict[str, int]
) -> None:
    prompts, images = many(10)
    pair = [ClipScore(str(clip_folder), batch_size=32), imagereward(imagereward_folder, batch_size=32)]
    scorers.score_many(pair, prompts, images)
    assert counted == {"prepared": 10, "encoded": 10}


def test_two_hps_models_share_the_preparation(hps_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, images = many(10)
    prepared = []
    monkeypatch.setattr(hpsv2, "to_pixels", lambda image: prepared.append(image) or to_pixels(image))
    options = {"model": str(hps_folder / "HPS_v2_compressed.pt"), "architecture": str(hps_folder / "tiny.json")}
    scorers.score_many([scorers.load("hpsv2", **options), scorers.load("hpsv2.1", **options)], prompts, images)
    assert len(prepared) == 10
    scorers.score_many([HPSv2(**options), HPSv2(**options, antialias=True)], prompts, images)
    assert len(prepared) == 30


def test_another_batch_size_shares_nothing(clip_folder: Path, head: str, counted: dict[str, int]) -> None:
    prompts, images = many(10)
    pair = [ClipScore(str(clip_folder), batch_size=32), Aesthetic(str(clip_folder), head=head, batch_size=3)]
    scorers.score_many(pair, prompts, images)
    assert counted == {"prepared": 20, "encoded": 20}


def test_the_weights_are_in_memory_once(clip_folder: Path, head: str) -> None:
    first, second = ClipScore(str(clip_folder)), Aesthetic(str(clip_folder), head=head)
    assert first.backbone is second.backbone
    assert ClipScore(str(clip_folder), dtype="bf16").backbone is not first.backbone


def test_a_backbone_that_nobody_holds_is_let_go(clip_folder: Path) -> None:
    key = (str(clip_folder), "cpu", torch.float16, False)
    scorer = ClipScore(str(clip_folder), dtype="fp16")
    assert key in shared._loaded
    del scorer
    gc.collect()
    assert key not in shared._loaded


class Foreign:
    """What a third party may hand in: the protocol and no base class."""

    name, scale = "foreign", "number of letters"

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}

    def score(self, prompts: list[str], images: list[Image.Image]) -> Tensor:
        return torch.tensor([float(len(prompt)) for prompt in prompts])


def test_a_scorer_without_the_base_class_may_take_part(clip_folder: Path) -> None:
    prompts, images = ["a", "bb"], [Image.fromarray(noise(9, 9))] * 2
    foreign, clip = scorers.score_many([Foreign(), ClipScore(str(clip_folder))], prompts, images)
    assert foreign.tolist() == [1.0, 2.0]
    assert clip.shape == (2,)


def test_a_score_of_its_own_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(BatchScorer):
        name, scale = "own", "always 7"

        def prepare(self, image: Image.Image) -> Tensor:
            raise AssertionError

        def compare(self, features: Tensor, texts: Tensor) -> Tensor:
            raise AssertionError

        def score(self, prompts: Any, images: Any) -> Tensor:
            return torch.full((len(prompts),), 7.0)

    assert scorers.score_many([Own(), Own()], ["a"], [Image.new("RGB", (4, 4))]) == [torch.tensor([7.0])] * 2


def test_the_same_scorer_twice(clip_folder: Path) -> None:
    prompts, images = pairs(4)
    scorer = ClipScore(str(clip_folder))
    first, second = scorers.score_many([scorer, scorer], prompts, images)
    assert torch.equal(first, second)
    first += 1
    assert not torch.equal(first, second)


def test_nobody_and_nothing(clip_folder: Path, head: str) -> None:
    assert scorers.score_many([], ["a"], [Image.new("RGB", (4, 4))]) == []
    pair = [ClipScore(str(clip_folder)), Aesthetic(str(clip_folder), head=head)]
    assert [found.shape for found in scorers.score_many(pair, [], [])] == [(0,), (0,)]


def test_the_scorer_that_fails_is_named(clip_folder: Path, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1, 32), "bias": torch.tensor([float("inf")])}, tmp_path / "head.pth")
    pair = [ClipScore(str(clip_folder)), Aesthetic(str(clip_folder), head=str(tmp_path / "head.pth"))]
    with pytest.raises(ScorerError, match="aesthetic gave inf for image 0"):
        scorers.score_many(pair, ["a"], [Image.fromarray(noise(9, 9))])


def test_wrong_input_is_named(clip_folder: Path) -> None:
    with pytest.raises(ScorerError, match="2 prompts and 1 images"):
        scorers.score_many([ClipScore(str(clip_folder))] * 2, ["a", "b"], [Image.new("RGB", (4, 4))])


def test_a_prompt_longer_than_the_model_reads_is_counted_by_every_clip_scorer(
    clip_folder: Path, hps_folder: Path
) -> None:
    pick = scorers.load("pickscore", model=str(clip_folder))
    hps = HPSv2(str(hps_folder), architecture=str(hps_folder / "tiny.json"))
    for scorer, fits in ((pick, 75), (hps, 14)):
        assert isinstance(scorer, base.BatchScorer)
        image = Image.fromarray(noise(9, 9))
        letters = "a" * 200 if scorer is pick else "a " * 200
        step = 1 if scorer is pick else 2
        scorer.score([letters[: fits * step], letters[: (fits + 1) * step], "x " * 5000, "."], [image] * 4)
        assert scorer.truncated_prompts == 2
