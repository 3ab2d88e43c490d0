"""Every family against diffusers itself: encoding, prediction, reference, the keys that only some know."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
import torch
from by_hand import call
from diffusers import DiffusionPipeline, FluxPipeline
from family_samples import MAKERS
from PIL import Image

from diffdpo.data.framing import Framing
from diffdpo.data.latents import Batch, LatentCache
from diffdpo.data.triplets import Pair, TripletStore, write_pairs
from diffdpo.errors import UserError
from diffdpo.models.flux import image_ids, pack, unpack
from diffdpo.models.memory.weights import encoders_gb
from diffdpo.models.protocol import trainable
from diffdpo.models.registry import load_model
from diffdpo.models.sampling import Sampling, generate, load_pipeline
from diffdpo.objectives import Draws, draw
from diffdpo.training.image.pairs import NoisedPairs

PROMPTS = ["a cat", "an old dog"]


@pytest.fixture(scope="module", params=[name for name in MAKERS if name != "sd3-without-t5"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folder(family, sample):
    return sample(family)


def conditioned(model, prompts=PROMPTS):
    sizes = torch.tensor([[20, 30, 0, 4], [64, 16, 24, 0]])
    return model.add_sizes(model.encode_prompts(prompts), sizes, (8, 8))


def inputs(model):
    torch.manual_seed(1)
    return torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), conditioned(model)


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
        model.predict(model.network, *args), call(DiffusionPipeline.from_pretrained(folder), *args)
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


def test_images_are_drawn(folder):
    images = generate(load_pipeline(str(folder)), PROMPTS, [1, 2], Sampling(2, 3.0, 16, 2))
    assert [image.size for image in images] == [(16, 16)] * 2


@pytest.fixture(scope="module")
def sdxl(sample):
    return sample("sdxl")


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


@pytest.mark.parametrize(
    ("name", "size", "near"), [("sd3", (18, 16), "16 x 16"), ("flux", (16, 2), "16 x 4"), ("sd15", (17, 18), "16 x 18")]
)
def test_a_size_that_would_lose_an_edge_is_refused(sample, name, size, near):
    model = load_model(str(sample(name)))
    with pytest.raises(UserError, match=f"data.size: {size[0]} x {size[1]} pixels do not fit .* the nearest is {near}"):
        model.check_size(*size)
    model.check_size(16, 20)


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
def test_sd3_without_t5_has_zeros_in_its_place(sample):
    model = load_model(str(sample("sd3-without-t5")))
    given = model.encode_prompts(PROMPTS)
    assert given["prompt_embeds"].shape == (2, 16 + 256, 32)
    assert not given["prompt_embeds"][:, 16:].any()


@torch.no_grad()
def test_flux_is_told_the_guidance_that_was_asked_for(sample):
    model = load_model(str(sample("flux")), guidance=3.5)
    args = inputs(model)
    pipeline = DiffusionPipeline.from_pretrained(sample("flux"))
    told = model.predict(model.network, *args)
    torch.testing.assert_close(told, call(pipeline, *args, guidance=3.5))
    assert not torch.allclose(told, call(pipeline, *args), atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_t5_reads_as_many_tokens_as_asked_for(sample, family):
    path = str(sample(family))
    short, usual = load_model(path, max_sequence_length=12), load_model(path)
    pipeline = DiffusionPipeline.from_pretrained(path)
    extra = (None, None) if family == "sd3" else ()
    theirs = pipeline.encode_prompt(PROMPTS, *extra, max_sequence_length=12)[0]
    torch.testing.assert_close(short.encode_prompts(PROMPTS)["prompt_embeds"], theirs)
    assert short.encoder_identity() != usual.encoder_identity()


@pytest.mark.parametrize(
    ("family", "key", "value"), [("flux-schnell", "guidance", 2.0), ("sdxl", "max_sequence_length", 64)]
)
def test_keys_that_a_model_has_no_use_for_are_refused(sample, family, key, value):
    with pytest.raises(UserError, match=f"model.{key}: .*leave the key out"):
        load_model(str(sample(family)), **{key: value})


@pytest.fixture(scope="module")
def half_t5(sample, tmp_path_factory):
    """Flux as it is published: T5 in bf16."""
    folder = tmp_path_factory.mktemp("half") / "flux"
    shutil.copytree(sample("flux"), folder)
    t5 = DiffusionPipeline.from_pretrained(folder).text_encoder_2
    t5.to(torch.bfloat16).save_pretrained(folder / "text_encoder_2")
    return folder


def test_t5_stays_in_the_checkpoints_own_dtype(half_t5, tmp_path):
    model = load_model(str(half_t5))
    assert model.pipeline.text_encoder_2.dtype == torch.bfloat16
    assert model.pipeline.text_encoder.dtype == model.network.dtype == torch.float32
    given = model.encode_prompts(PROMPTS)
    assert {tensor.dtype for tensor in given.values()} == {torch.float32}
    exported = DiffusionPipeline.from_pretrained(model.export(tmp_path / "out"), dtype={"text_encoder_2": "auto"})
    assert exported.text_encoder_2.dtype == torch.bfloat16


def test_t5_is_counted_as_it_is_stored(sample, half_t5):
    t5 = sample("flux") / "text_encoder_2" / "model.safetensors"
    saved = (t5.stat().st_size - (half_t5 / "text_encoder_2" / "model.safetensors").stat().st_size) / 1e9
    counts = [encoders_gb(str(path)) for path in (sample("flux"), half_t5)]
    assert counts[0] - counts[1] == pytest.approx(saved, rel=1e-6)
