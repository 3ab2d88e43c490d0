"""An image is a function of prompt and seed, not of its neighbours in the batch."""

import numpy as np
import pytest
import torch

from diffdpo.errors import UserError
from diffdpo.models.registry import load_model
from diffdpo.models.sampling import Sampling, computes_in_half, generate, load_pipeline


@pytest.fixture(scope="module")
def pipeline(tiny_model):
    return load_pipeline(str(tiny_model))


def pixels(image):
    return np.asarray(image).astype(int)


def test_batches_do_not_mix(pipeline):
    prompts, seeds = ["a cat", "a dog", "a cat"], [1, 2, 3]
    together = generate(pipeline, prompts, seeds, Sampling(3, 2.0, None, 3))
    apart = [generate(pipeline, [p], [s], Sampling(3, 2.0, None, 1))[0] for p, s in zip(prompts, seeds, strict=True)]
    for a, b in zip(together, apart, strict=True):
        assert abs(pixels(a) - pixels(b)).max() <= 1


def test_seeds_repeat_and_differ(pipeline):
    one, again, other = generate(pipeline, ["a"] * 3, [5, 5, 6], Sampling(2, 1.0, None, 3))
    assert abs(pixels(one) - pixels(again)).max() <= 1
    assert abs(pixels(one) - pixels(other)).max() > 10


def test_lora_is_fused(tiny_model, tmp_path):
    model = load_model(str(tiny_model), lora_rank=2, lora_alpha=2)
    with torch.no_grad():
        for parameter in model.network.parameters():
            if parameter.requires_grad:
                parameter += 0.3
    folder = model.export(tmp_path / "lora")
    plain, tuned = load_pipeline(str(tiny_model)), load_pipeline(str(tiny_model), lora=str(folder))
    a, b = (generate(p, ["a"], [0], Sampling(2, 1.0, None, 1))[0] for p in (plain, tuned))
    assert abs(pixels(a) - pixels(b)).max() > 3


def test_missing_lora_and_bad_settings_are_named(tiny_model, tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        load_pipeline(str(tiny_model), lora=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="at least 1 step"):
        Sampling(steps=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "--steps 0: images need at least 1 step"),
        ({"batch_size": 0}, "--batch-size 0: at least 1"),
        ({"guidance": float("nan")}, "--guidance nan: a finite number"),
        ({"size": 0}, "--size 0: at least 1 pixel"),
        ({"steps": 2000}, "--steps 2000: the model was trained with 1000 steps"),
        ({"size": 33}, "--size 33: this model draws multiples of 8 pixels; 32 is the nearest"),
    ],
)
def test_sampling_that_cannot_be_names_its_option(pipeline, options, message):
    with pytest.raises(UserError, match=message):
        generate(pipeline, ["a cat"], [1], Sampling(**{"steps": 2, **options}))


def test_half_precision_is_told_from_what_is_upcast(tiny_model):
    assert not computes_in_half(load_pipeline(str(tiny_model)))
    assert computes_in_half(load_pipeline(str(tiny_model), dtype=torch.float16))


@pytest.mark.parametrize(("dtype", "force_upcast", "half"), [
    (torch.float16, True, False), (torch.float16, False, True), (torch.bfloat16, True, True),
])  # fmt: skip
def test_sdxl_decodes_float16_in_float32_unless_it_need_not(sample, dtype, force_upcast, half):
    pipeline = load_pipeline(str(sample("sdxl")), dtype=dtype)
    pipeline.vae.register_to_config(force_upcast=force_upcast)
    assert computes_in_half(pipeline) == half
