"""The network that is being trained draws what its export would draw, and is left as it was."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from family_samples import make

from diffdpo.models.live import LiveSampler
from diffdpo.models.protocol import trainable
from diffdpo.models.registry import load_model
from diffdpo.models.sampling import Sampling, generate, load_pipeline

PROMPTS, SEEDS = ["a cat", "a dog", "a big cat"], [3, 4, 5]
HOW = Sampling(steps=3, guidance=4.0, size=16, batch_size=2)


def pixels(images) -> np.ndarray:
    return np.stack([np.asarray(image).astype(int) for image in images])


def live(model, autocast=nullcontext) -> LiveSampler:
    sampler = LiveSampler(model, PROMPTS, SEEDS, HOW, autocast)
    model.forget_encoders()
    return sampler


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3", "flux"])
def test_a_live_network_draws_what_its_folder_draws(family, tiny_model, tmp_path):
    folder = tiny_model if family == "sd15" else make(family, tiny_model, tmp_path / "tiny")
    expected = generate(load_pipeline(str(folder)), PROMPTS, SEEDS, HOW)
    assert abs(pixels(live(load_model(str(folder)))()) - pixels(expected)).max() <= 1


def test_a_lora_that_was_trained_is_drawn_with(tiny_model, tmp_path):
    model = load_model(str(tiny_model), lora_rank=2, lora_alpha=2.0)
    sampler = live(model)
    plain = sampler()
    with torch.no_grad():
        for parameter in trainable(model.network):
            parameter += 0.3
    tuned = sampler()
    expected = generate(load_pipeline(str(tiny_model), lora=str(model.export(tmp_path / "lora"))), PROMPTS, SEEDS, HOW)
    assert abs(pixels(plain) - pixels(tuned)).max() > 3
    assert abs(pixels(tuned) - pixels(expected)).max() <= 1


def test_drawing_moves_no_random_state_and_leaves_the_network_as_it_was(tiny_model):
    model = load_model(str(tiny_model))
    sampler, own = live(model), model.network.__dict__.keys() | set()
    torch.manual_seed(7)
    state = torch.get_rng_state()
    sampler()
    assert torch.equal(state, torch.get_rng_state())
    assert model.network.__dict__.keys() == own
    assert model.pipeline.vae is None
    assert all(parameter.requires_grad for parameter in model.network.parameters())


def test_a_frozen_network_in_half_precision_draws_nearly_the_same(tiny_model):
    whole = live(load_model(str(tiny_model), lora_rank=2, lora_alpha=2.0))()
    model = load_model(str(tiny_model), lora_rank=2, lora_alpha=2.0, frozen_dtype=torch.bfloat16)
    half = live(model, partial(torch.autocast, "cpu", torch.bfloat16))()
    assert 0 < abs(pixels(whole) - pixels(half)).mean() < 4
