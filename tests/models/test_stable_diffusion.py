"""A Stable Diffusion checkpoint, loaded, trained a little and exported, against diffusers itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from diffdpo.errors import UserError
from diffdpo.models.pipeline_model import PipelineModel
from diffdpo.models.protocol import trainable
from diffdpo.models.registry import load_model


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8))


def inputs(model: PipelineModel) -> tuple:
    torch.manual_seed(1)
    return torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), model.encode_prompts(["a cat", ""])


def nudge(model: PipelineModel) -> None:
    with torch.no_grad():
        for parameter in trainable(model.network):
            parameter += 0.05 * torch.randn_like(parameter)


def test_latents_are_the_scaled_posterior(tiny_model):
    model = load_model(str(tiny_model))
    mean, std = model.encode_images([picture()])
    vae = StableDiffusionPipeline.from_pretrained(tiny_model).vae
    pixels = torch.from_numpy(np.array(picture())).permute(2, 0, 1)[None] / 127.5 - 1
    posterior = vae.encode(pixels).latent_dist
    torch.testing.assert_close(mean, posterior.mean * vae.config.scaling_factor)
    torch.testing.assert_close(std, posterior.std * vae.config.scaling_factor)


def test_prompts_are_encoded_as_the_pipeline_does(tiny_model):
    model = load_model(str(tiny_model))
    ours = model.encode_prompts(["a cat", ""])["prompt_embeds"]
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model)
    theirs, negative = pipeline.encode_prompt(["a cat"], "cpu", 1, True)
    torch.testing.assert_close(ours, torch.cat([theirs, negative]))


def test_fresh_lora_changes_nothing_and_only_it_is_trained(tiny_model):
    base, lora = load_model(str(tiny_model)), load_model(str(tiny_model), lora_rank=4, lora_alpha=8)
    args = inputs(base)
    assert torch.equal(base.predict(base.network, *args), lora.predict(lora.network, *args))
    names = [name for name, parameter in lora.network.named_parameters() if parameter.requires_grad]
    assert names
    assert all("lora_" in name for name in names)


@pytest.mark.parametrize("rank", [0, 4])
def test_reference_stays_what_the_model_was(tiny_model, rank):
    model = load_model(str(tiny_model), lora_rank=rank, lora_alpha=rank)
    args = inputs(model)
    before = model.predict(model.network, *args)
    reference = model.reference()
    nudge(model)
    assert torch.equal(reference(*args), before)
    assert not torch.equal(model.predict(model.network, *args), before)


def test_adapter_and_copy_are_the_same_reference(tiny_model):
    copy, adapter = load_model(str(tiny_model)), load_model(str(tiny_model), lora_rank=4, lora_alpha=4)
    args = inputs(copy)
    assert torch.equal(copy.reference()(*args), adapter.reference()(*args))


def test_full_export_opens_in_diffusers(tiny_model, tmp_path):
    model = load_model(str(tiny_model))
    nudge(model)
    args = inputs(model)
    unet = StableDiffusionPipeline.from_pretrained(model.export(tmp_path / "model")).unet
    x_t, timesteps, conditioning = args
    theirs = unet(x_t, timesteps, conditioning["prompt_embeds"]).sample
    torch.testing.assert_close(model.predict(model.network, *args), theirs, rtol=1e-5, atol=1e-5)


def test_lora_export_opens_in_diffusers_with_its_true_alpha(tiny_model, tmp_path):
    model = load_model(str(tiny_model), lora_rank=4, lora_alpha=8)
    nudge(model)
    args = inputs(model)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_model)
    pipeline.load_lora_weights(model.export(tmp_path / "lora"))
    assert pipeline.unet.peft_config["default_0"].lora_alpha == 8
    x_t, timesteps, conditioning = args
    theirs = pipeline.unet(x_t, timesteps, conditioning["prompt_embeds"]).sample
    torch.testing.assert_close(model.predict(model.network, *args), theirs, rtol=1e-5, atol=1e-5)


def test_export_of_given_weights_leaves_the_model_alone(tiny_model, tmp_path):
    model = load_model(str(tiny_model))
    kept = [p.detach().clone() for p in trainable(model.network)]
    model.export(tmp_path / "model", [p + 1 for p in kept])
    assert all(torch.equal(a, b) for a, b in zip(kept, trainable(model.network), strict=True))
    unet = StableDiffusionPipeline.from_pretrained(tmp_path / "model").unet
    torch.testing.assert_close(next(unet.parameters()), kept[0] + 1)


def test_prediction_type_is_read_from_the_checkpoint(tiny_model, tmp_path):
    import shutil

    folder = tmp_path / "v"
    shutil.copytree(tiny_model, folder)
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "prediction_type": "v_prediction"}))
    assert load_model(str(folder)).objective.prediction_type == "v_prediction"


@pytest.mark.parametrize("break_it", ["missing", "empty", "no unet"])
def test_unfit_folders_are_named(tiny_model, tmp_path, break_it):
    import shutil

    folder = tmp_path / "broken"
    if break_it == "empty":
        folder.mkdir()
    elif break_it == "no unet":
        shutil.copytree(tiny_model, folder)
        shutil.rmtree(folder / "unet")
    with pytest.raises(UserError, match="broken"):
        load_model(str(folder))
