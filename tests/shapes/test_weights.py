"""The models that ship with the package: their layout, their size, and what they can do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

import scorers
from diffdpo.shapes import damage, weights
from diffdpo.shapes.checker import check
from diffdpo.shapes.render import render, to_image
from diffdpo.shapes.scene import split_scenes


@pytest.fixture(scope="module")
def pipeline():
    return StableDiffusionPipeline.from_pretrained(weights.GENERATOR)


def held_out_scenes(n: int, rng: np.random.Generator):
    scenes = split_scenes(held_out=True)
    return [scenes[i] for i in rng.integers(len(scenes), size=n)]


def test_all_weights_together_stay_below_25_mb():
    files = [path for path in weights.FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 25e6
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pth", ".ckpt")]


def test_it_opens_as_a_stable_diffusion_pipeline_with_a_real_tokenizer(pipeline):
    assert type(pipeline.vae).__name__ == "AutoencoderKL"
    assert type(pipeline.unet).__name__ == "UNet2DConditionModel"
    assert type(pipeline.text_encoder).__name__ == "CLIPTextModel"
    assert pipeline.scheduler.config.prediction_type == "epsilon"
    longest = max((scene.caption for scene in split_scenes(held_out=False)), key=lambda text: len(text.split()))
    ids = pipeline.tokenizer(longest).input_ids
    assert len(ids) <= pipeline.tokenizer.model_max_length
    assert pipeline.tokenizer.decode(ids, skip_special_tokens=True) == longest


def test_all_models_read_the_ids_that_the_build_writes(pipeline):
    """A model trained under one order of the words and shipped with another reads "left on" for "left of"."""
    from transformers import AutoTokenizer

    from diffdpo.shapes.build.tokenizer import new_tokenizer

    captions = [scene.caption for scene in split_scenes(held_out=False)[::97]]
    expected = new_tokenizer()(captions).input_ids
    assert pipeline.tokenizer(captions).input_ids == expected
    for folder in (weights.PICKSCORE, weights.HPSV2 / "tokenizer"):
        assert AutoTokenizer.from_pretrained(folder)(captions).input_ids == expected


def test_nothing_tells_where_it_was_built():
    for path in weights.FOLDER.rglob("*.json"):
        assert "_name_or_path" not in path.read_text(encoding="utf-8"), path


@torch.inference_mode()
def test_reconstructions_pass_the_exact_checker(pipeline):
    rng = np.random.default_rng(3)
    scenes = held_out_scenes(200, rng)
    images = [to_image(render(scene, rng)) for scene in scenes]
    pixels = pipeline.image_processor.preprocess(images)
    decoded = pipeline.vae.decode(pipeline.vae.encode(pixels).latent_dist.mode()).sample
    rebuilt = pipeline.image_processor.postprocess(decoded, output_type="pil")
    assert np.mean([check(image, scene).exact for image, scene in zip(rebuilt, scenes, strict=True)]) >= 0.97


@pytest.mark.parametrize("name", ["shapes-pickscore", "shapes-hpsv2"])
def test_judges_prefer_careful_pictures_of_captions_they_never_saw(name):
    rng = np.random.default_rng(4)
    scenes = held_out_scenes(150, rng)
    captions = [scene.caption for scene in scenes]
    careful = [to_image(render(scene, rng)) for scene in scenes]
    damaged = [to_image(damage.damage(scene, rng)) for scene in scenes]
    judge = scorers.load(name)
    assert judge.name == name
    right = judge.score(captions, careful) > judge.score(captions, damaged)
    assert right.float().mean() > 0.8


def test_exact_scorer_is_the_checker():
    rng = np.random.default_rng(5)
    scene = split_scenes(held_out=True)[0]
    judge = scorers.load("shapes-exact")
    scores = judge.score(
        [scene.caption] * 2, [to_image(render(scene, rng)), to_image(damage.wrong_relation(scene, rng))]
    )
    assert scores.tolist() == pytest.approx([1.0, 0.8])


def test_exact_scorer_knows_no_other_captions():
    rng = np.random.default_rng(5)
    with pytest.raises(scorers.ScorerError, match="not a caption"):
        scorers.load("shapes-exact").score(["a cat"], [to_image(render(split_scenes(held_out=True)[0], rng))])
