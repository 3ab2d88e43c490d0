"""Noising and targets against the papers' formulas and against diffusers' own scheduler."""

import math

import pytest
import torch
from diffusers import DDPMScheduler

from diffdpo.objectives import Diffusion, FlowMatching


@pytest.fixture
def scheduler():
    return DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)


def test_noised_latents_and_targets_equal_diffusers(scheduler):
    x_0, noise, t = torch.randn(5, 4, 3, 3), torch.randn(5, 4, 3, 3), torch.tensor([0, 1, 500, 998, 999])
    epsilon, v = Diffusion(scheduler.alphas_cumprod), Diffusion(scheduler.alphas_cumprod, "v_prediction")
    torch.testing.assert_close(epsilon.noised(x_0, noise, t), scheduler.add_noise(x_0, noise, t))
    torch.testing.assert_close(v.target(x_0, noise, t), scheduler.get_velocity(x_0, noise, t))
    assert epsilon.target(x_0, noise, t) is noise


def test_v_by_hand():
    objective = Diffusion(torch.tensor([0.64], dtype=torch.float64), "v_prediction")
    x_0, noise = torch.full((1, 1, 1, 1), 2.0).double(), torch.full((1, 1, 1, 1), 3.0).double()
    assert objective.noised(x_0, noise, torch.tensor([0])).item() == pytest.approx(0.8 * 2 + 0.6 * 3)
    assert objective.target(x_0, noise, torch.tensor([0])).item() == pytest.approx(0.8 * 3 - 0.6 * 2)


def test_flow_is_the_straight_path():
    flow = FlowMatching(1000)
    x_0, noise = torch.full((2, 1, 1, 1), 2.0), torch.full((2, 1, 1, 1), -1.0)
    noised = flow.noised(x_0, noise, torch.tensor([0, 250])).flatten().tolist()
    assert noised == pytest.approx([2.0, 0.75 * 2 - 0.25])
    assert flow.target(x_0, noise, torch.tensor([0, 250])).flatten().tolist() == [-3.0, -3.0]


def test_signal_and_noise_levels_keep_the_variance(scheduler):
    objective = Diffusion(scheduler.alphas_cumprod)
    for t in (0, 400, 999):
        signal = objective.noised(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), torch.tensor([t])).item()
        noise = objective.noised(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), torch.tensor([t])).item()
        assert math.hypot(signal, noise) == pytest.approx(1.0, rel=1e-6)


def test_an_unknown_prediction_type_is_refused(scheduler):
    with pytest.raises(ValueError, match="sample"):
        Diffusion(scheduler.alphas_cumprod, "sample")
