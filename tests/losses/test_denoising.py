"""Diffusion-DPO against equation 14 of Wallace et al., in float64; the winner safeguard against its promise."""

import math

import pytest
import torch

from diffdpo.losses import denoising_error, diffusion_dpo_loss, winner_safeguard


def test_error_is_the_mean_over_channels_and_pixels():
    prediction, target = torch.randn(3, 4, 5, 6), torch.randn(3, 4, 5, 6)
    expected = [(p.double() - t.double()).pow(2).sum().item() / 120 for p, t in zip(prediction, target, strict=True)]
    assert denoising_error(prediction, target).tolist() == pytest.approx(expected, rel=1e-6)


def test_bf16_inputs_are_cast_before_the_square():
    prediction, target = torch.randn(2, 4, 8, 8).bfloat16(), torch.randn(2, 4, 8, 8).bfloat16()
    error = denoising_error(prediction, target)
    exact = (prediction.double() - target.double()).pow(2).mean((1, 2, 3))
    assert error.dtype == torch.float32
    assert 5000 * (error.double() - exact).abs().max() < 1e-2  # in bf16 throughout it would be 0.5 to 4


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="differ in shape"):
        denoising_error(torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 8, 1))


def test_loss_is_equation_14():
    e_w, e_l, r_w, r_l = ([0.11, 0.30], [0.21, 0.28], [0.12, 0.29], [0.20, 0.31])
    beta = 5000.0
    expected = [math.log1p(math.exp(beta / 2 * ((e_w[i] - r_w[i]) - (e_l[i] - r_l[i])))) for i in range(2)]
    out = diffusion_dpo_loss(*(torch.tensor(x, dtype=torch.float64) for x in (e_w, e_l, r_w, r_l)), beta=beta)
    assert out.loss.tolist() == pytest.approx(expected, rel=1e-10)
    assert out.chosen_reward.tolist() == pytest.approx([beta / 2 * 0.01, -beta / 2 * 0.01], rel=1e-9)


def test_gradients_of_winner_and_loser_error_are_equal_and_opposite():
    errors = [torch.tensor([0.2 + 0.01 * i], dtype=torch.float64, requires_grad=True) for i in range(4)]
    diffusion_dpo_loss(*errors).loss.sum().backward()
    assert errors[0].grad.item() == pytest.approx(-errors[1].grad.item(), rel=1e-12)
    assert errors[0].grad.item() > 0


def test_equal_errors_give_ln_2_exactly():
    same = torch.rand(5)
    assert torch.equal(diffusion_dpo_loss(same, same * 2, same, same * 2).loss, torch.full((5,), math.log(2)))


@pytest.mark.parametrize("mu", [0.0, 0.5, 0.9, 1.0])
def test_safeguarded_step_never_raises_the_winner_error(mu):
    """Along -(g_w - factor * g_l) the winner's error falls by <g_w, g_w - factor g_l> >= mu |g_w|^2 (or 0)."""
    torch.manual_seed(0)
    target = torch.randn(64, 4, 4, 4, dtype=torch.float64)
    w = target + torch.randn_like(target)
    r = target + 3 * (w - target) + torch.randn_like(target)
    factor = winner_safeguard(w, r, target, target, mu).double()
    g_w, g_l = (w - target).flatten(1), (r - target).flatten(1)
    descent = (g_w * (g_w - factor[:, None] * g_l)).sum(1)
    assert (descent >= mu * g_w.square().sum(1) - 1e-4).all()
    assert (factor < 1).any()


def test_safeguard_lets_a_harmless_loser_through():
    target = torch.zeros(1, 1, 2, 2)
    w, r = torch.ones(1, 1, 2, 2), -torch.ones(1, 1, 2, 2)
    assert winner_safeguard(w, r, target, target, 0.9).item() == 1.0


def test_safeguard_formula_by_hand():
    target = torch.zeros(1, 1, 1, 2)
    w, r = torch.tensor([[[[1.0, 1.0]]]]), torch.tensor([[[[4.0, 0.0]]]])
    assert winner_safeguard(w, r, target, target, 0.5).item() == pytest.approx(0.5 * 2 / 4)
