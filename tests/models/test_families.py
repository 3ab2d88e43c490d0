"""Every family against diffusers itself: encoding, prediction, reference, loss, a short run and its export."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, FluxPipeline
from PIL import Image

from diffdpo.config import DpoConfig, build
from diffdpo.data.framing import Framing
from diffdpo.data.latents import Batch, LatentCache
from diffdpo.data.triplets import Pair, TripletStore, write_pairs
from diffdpo.models.flux import image_ids, pack, unpack
from diffdpo.models.protocol import trainable
from diffdpo.models.registry import load_model
from diffdpo.models.sampling import Sampling, generate, load_pipeline
from diffdpo.objectives import Draws, draw
from diffdpo.training.pairs import NoisedPairs
from diffdpo.training.runner import run_dpo

sys.path.insert(0, str(Path(__file__).parent))
from family_samples import MAKERS, make

PROMPTS = ["a cat", "an old dog"]


@pytest.fixture(scope="module", params=[name for name in MAKERS if name != "sd3-without-t5"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folder(family, tiny_model, tmp_path_factory):
    return make(family, tiny_model, tmp_path_factory.mktemp("families") / family)


def conditioned(model, prompts=PROMPTS):
    sizes = torch.tensor([[20, 30, 0, 4], [64, 16, 24, 0]])
    return model.add_sizes(model.encode_prompts(prompts), sizes, (8, 8))


def inputs(model):
    torch.manual_seed(1)
    return torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), conditioned(model)


def direct(pipeline, x_t, timesteps, given):
    """The network called as diffusers' own pipelines call it."""
    states = given["prompt_embeds"]
    if hasattr(pipeline, "unet"):
        added = {"text_embeds": given.get("pooled_prompt_embeds"), "time_ids": given.get("time_ids")}
        return pipeline.unet(x_t, timesteps, states, added_cond_kwargs=added).sample
    pooled = given["pooled_prompt_embeds"]
    if not isinstance(pipeline, FluxPipeline):
        return pipeline.transformer(x_t, states, pooled, timesteps).sample
    guided = pipeline.transformer.config.guidance_embeds
    answer = pipeline.transformer(
        pipeline._pack_latents(x_t, 2, 4, 8, 8),
        states,
        pooled,
        timesteps / 1000,
        pipeline._prepare_latent_image_ids(2, 4, 4, "cpu", torch.float32),
        torch.zeros(states.shape[1], 3),
        guidance=torch.ones(2) if guided else None,
    ).sample
    return pipeline._unpack_latents(answer, 16, 16, pipeline.vae_scale_factor)


@torch.no_grad()
def test_prompts_are_encoded_as_the_pipeline_does(family, folder):
    ours = load_model(str(folder)).encode_prompts(PROMPTS)
    pipeline = DiffusionPipeline.from_pretrained(folder)
    extra = (None, None) if family.startswith("sd3") else ()
    if family == "sd21":
        theirs = [pipeline.encode_prompt(PROMPTS, "cpu", 1, False)[0]]
    elif family.startswith("flux"):
        theirs = pipeline.encode_prompt(PROMPTS)[:2]
    else:
        theirs = pipeline.encode_prompt(PROMPTS, *extra, do_classifier_free_guidance=False)[::2]
    torch.testing.assert_close(list(ours.values()), list(theirs))


def test_latents_are_shifted_and_scaled(folder):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    mean, std = load_model(str(folder)).encode_images([picture])
    vae = DiffusionPipeline.from_pretrained(folder).vae
    posterior = vae.encode(torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1).latent_dist
    shift, scale = vae.config.shift_factor or 0.0, vae.config.scaling_factor
    torch.testing.assert_close(mean, (posterior.mean - shift) * scale)
    torch.testing.assert_close(std, posterior.std * scale)


@torch.no_grad()
def test_prediction_is_the_networks(folder):
    model = load_model(str(folder))
    args = inputs(model)
    torch.testing.assert_close(
        model.predict(model.network, *args), direct(DiffusionPipeline.from_pretrained(folder), *args)
    )


@torch.no_grad()
@pytest.mark.parametrize("rank", [0, 4])
def test_reference_stays_what_the_model_was(folder, rank):
    base, model = load_model(str(folder)), load_model(str(folder), lora_rank=rank, lora_alpha=rank)
    args = inputs(model)
    before = base.predict(base.network, *args)
    assert torch.equal(model.predict(model.network, *args), before)
    reference = model.reference()
    for parameter in trainable(model.network):
        parameter += 0.05 * torch.randn_like(parameter)
    assert torch.equal(reference(*args), before)
    assert not torch.equal(model.predict(model.network, *args), before)


def pairs(model):
    """Two pairs with other sizes on each side."""
    torch.manual_seed(2)
    means = torch.randn(4, 2, 4, 8, 8)
    batch = Batch(
        means[0],
        means[1].abs(),
        means[2],
        means[3].abs(),
        conditioning=model.encode_prompts(PROMPTS),
        unconditional=model.encode_prompts(["", ""]),
        sizes=torch.tensor([[[20, 30, 0, 4], [64, 16, 24, 0]], [[16, 16, 0, 0], [50, 40, 2, 0]]]),
        pair_ids=["a", "b"],
        ties=torch.zeros(2, dtype=torch.bool),
        margins=torch.zeros(2),
    )
    noise = torch.randn(3, 2, 4, 8, 8)
    return batch, Draws(torch.tensor([100, 800]), *noise, torch.tensor([0.9, 0.1]))


@torch.no_grad()
def test_errors_equal_the_formula_in_float64(family, folder):
    model = load_model(str(folder))
    batch, draws = pairs(model)
    noised = NoisedPairs.of(batch, draws, model, 0.0)
    ours = torch.stack(noised.errors(model.predict(model.network, *noised.inputs)))
    scheduler = DiffusionPipeline.from_pretrained(folder).scheduler
    noise, t = draws.noise.double(), draws.timesteps
    for side, (mean, std, drawn) in enumerate(
        [(batch.mean_w, batch.std_w, draws.posterior_w), (batch.mean_l, batch.std_l, draws.posterior_l)]
    ):
        x_0 = mean.double() + std.double() * drawn.double()
        if family in ("sd21", "sdxl"):
            abar = scheduler.alphas_cumprod.double()[t].reshape(-1, 1, 1, 1)
            x_t = abar.sqrt() * x_0 + (1 - abar).sqrt() * noise
            target = noise if family == "sdxl" else abar.sqrt() * noise - (1 - abar).sqrt() * x_0
        else:
            s = (t.double() / 1000).reshape(-1, 1, 1, 1)
            x_t, target = (1 - s) * x_0 + s * noise, noise - x_0
        given = model.add_sizes(batch.conditioning, batch.sizes[:, side], (8, 8))
        answer = model.predict(model.network, x_t.float(), t, given).double()
        torch.testing.assert_close(
            ours[side].double(), (answer - target).square().mean((1, 2, 3)), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("rank", [0, 4])
def test_three_steps_and_the_export_opens_in_diffusers(folder, make_store, tmp_path, rank):
    config = build(
        DpoConfig,
        {
            "output": str(tmp_path / "run"),
            "model": {"path": str(folder), "reference": "adapter" if rank else "copy"},
            "data": {"path": str(make_store(8)), "held_out_share": 0.0},
            "training": {"steps": 3, "batch_size": 2, "learning_rate": 1e-2, "log_every": 1},
            "loss": {"beta": 100},
            "lora": {"rank": rank, "alpha": 2 * rank},
        },
    )
    run_dpo(config)
    import json

    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["loss"] == pytest.approx(0.693147, abs=5e-7)
    before = DiffusionPipeline.from_pretrained(folder)
    if rank:
        after = DiffusionPipeline.from_pretrained(folder)
        after.load_lora_weights(tmp_path / "run" / "lora")
        denoiser = getattr(after, "unet", None) or after.transformer
        assert denoiser.peft_config["default_0"].lora_alpha == 8
    else:
        after = DiffusionPipeline.from_pretrained(tmp_path / "run" / "model")
    args = inputs(load_model(str(folder)))
    with torch.no_grad():
        assert not torch.allclose(direct(before, *args), direct(after, *args), atol=1e-4)


def test_images_are_drawn(folder):
    images = generate(load_pipeline(str(folder)), PROMPTS, [1, 2], Sampling(2, 3.0, 16, 2))
    assert [image.size for image in images] == [(16, 16)] * 2


@pytest.fixture(scope="module")
def sdxl(tiny_model, tmp_path_factory):
    return make("sdxl", tiny_model, tmp_path_factory.mktemp("sdxl") / "sdxl")


def test_sdxl_is_told_each_sides_own_size(sdxl):
    model = load_model(str(sdxl))
    batch, draws = pairs(model)
    time_ids = NoisedPairs.of(batch, draws, model, 0.5).inputs[2]["time_ids"]
    first_w, first_l = [20, 30, 0, 4, 16, 16], [64, 16, 24, 0, 16, 16]
    assert time_ids[[0, 2]].tolist() == [first_w, first_l]


def test_sdxl_is_told_the_true_crop_of_its_bucket_and_of_the_mirror_image(sdxl, tmp_path):
    model = load_model(str(sdxl))
    (tmp_path / "store").mkdir()
    images = (png((50, 24)), png((25, 12)))
    write_pairs(tmp_path / "store", 0, [Pair("a cat", *images, 1.0, 0.0, "p", "p", "m", "m", 0, 0, "test", 1.0)])
    cache = LatentCache.open_or_build(
        tmp_path / "cache",
        TripletStore.open(tmp_path / "store"),
        encode_images=model.encode_images,
        encode_prompts=model.encode_prompts,
        encoder=model.encoder_identity(),
        framing=Framing(size=16, step=model.side_multiple, flip=True),
    )
    # Both become 25 x 12, of which a bucket of 20 x 12 leaves out 2 columns on the left and 3 on the right.
    for view, left in enumerate((2, 3)):
        batch = cache.batch([0], [view])
        draws = draw(0, batch.pair_ids, [0], tuple(batch.mean_w.shape[1:]), 1000)
        noised = NoisedPairs.of(batch, draws, model, 0.0)
        assert noised.inputs[2]["time_ids"].tolist() == [[24, 50, 0, left, 12, 20], [12, 25, 0, left, 12, 20]]
        assert model.predict(model.network, *noised.inputs).shape == (2, 4, 6, 10)


def png(size):
    file = io.BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(file, "PNG")
    return file.getvalue()


@torch.no_grad()
def test_the_smallest_sides_that_are_not_square_are_predicted(folder):
    model = load_model(str(folder))
    assert model.side_multiple == 4  # an autoencoder of factor 2, then halved once
    x_t, timesteps = torch.randn(2, 4, 2, 6), torch.tensor([3, 700])
    given = model.add_sizes(model.encode_prompts(PROMPTS), torch.tensor([[4, 12, 0, 0]] * 2), (2, 6))
    prediction = model.predict(model.network, x_t, timesteps, given)
    assert prediction.shape == x_t.shape
    assert bool(prediction.isfinite().all())


@pytest.mark.parametrize("zeros", [True, False])
def test_sdxl_empty_prompt_is_the_pipelines_negative(sdxl, tmp_path, zeros):
    pipeline = DiffusionPipeline.from_pretrained(sdxl)
    pipeline.register_to_config(force_zeros_for_empty_prompt=zeros)
    pipeline.save_pretrained(tmp_path / "m")
    ours = load_model(str(tmp_path / "m")).encode_prompts(["a cat", ""])
    _, negative, _, pooled = pipeline.encode_prompt(["a cat"])
    torch.testing.assert_close(ours["prompt_embeds"][1:], negative)
    torch.testing.assert_close(ours["pooled_prompt_embeds"][1:], pooled)


def test_flux_packs_as_diffusers_does():
    latents = torch.randn(2, 4, 6, 8)
    assert torch.equal(pack(latents), FluxPipeline._pack_latents(latents, 2, 4, 6, 8))
    assert torch.equal(unpack(pack(latents), 6, 8), latents)
    assert torch.equal(image_ids(3, 4), FluxPipeline._prepare_latent_image_ids(2, 3, 4, "cpu", torch.float32))


@torch.no_grad()
def test_sd3_without_t5_has_zeros_in_its_place(tiny_model, tmp_path):
    model = load_model(str(make("sd3-without-t5", tiny_model, tmp_path / "m")))
    given = model.encode_prompts(PROMPTS)
    assert given["prompt_embeds"].shape == (2, 16 + 256, 32)
    assert not given["prompt_embeds"][:, 16:].any()
