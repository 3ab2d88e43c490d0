"""SimPO and ORPO against their papers, in float64."""

import math

import pytest
import torch

from diffdpo.losses import orpo_loss, simpo_loss

CHOSEN = torch.tensor([-0.5, -1.25, -2.0], dtype=torch.float64, requires_grad=True)
REJECTED = torch.tensor([-0.75, -0.25, -6.0], dtype=torch.float64, requires_grad=True)


def test_simpo_is_equation_6():
    found = simpo_loss(CHOSEN, REJECTED, beta=2.0, gamma=0.5)
    for place, (w, l) in enumerate(zip(CHOSEN.tolist(), REJECTED.tolist(), strict=True)):  # noqa: E741
        assert found.loss[place].item() == pytest.approx(math.log1p(math.exp(-(2 * w - 2 * l - 0.5))), abs=1e-12)
        assert found.chosen_reward[place].item() == pytest.approx(2 * w, abs=1e-12)
        assert found.rejected_reward[place].item() == pytest.approx(2 * l, abs=1e-12)


def test_orpo_is_equations_6_and_7():
    found = orpo_loss(CHOSEN, REJECTED, beta=0.3)
    for place, (w, l) in enumerate(zip(CHOSEN.tolist(), REJECTED.tolist(), strict=True)):  # noqa: E741
        odds_w, odds_l = (math.exp(x) / (1 - math.exp(x)) for x in (w, l))
        ratio = math.log(odds_w / odds_l)
        expected = -w - 0.3 * math.log(1 / (1 + math.exp(-ratio)))
        assert found.loss[place].item() == pytest.approx(expected, abs=1e-12)
        assert found.chosen_reward[place].item() == pytest.approx(0.3 * math.log(odds_w), abs=1e-12)


def test_gradients_are_those_of_finite_differences():
    for loss in (lambda w, l: simpo_loss(w, l, beta=2.0, gamma=0.5).loss, lambda w, l: orpo_loss(w, l, beta=0.3).loss):  # noqa: E741
        assert torch.autograd.gradcheck(loss, (CHOSEN, REJECTED))


def test_orpo_stays_finite_at_the_ends():
    chosen = torch.tensor([0.0, -1e-9, -200.0], requires_grad=True)
    loss = orpo_loss(chosen, chosen.detach().flip(0), beta=1.0).loss
    loss.sum().backward()
    assert loss.isfinite().all()
    assert chosen.grad.isfinite().all()


@pytest.mark.parametrize(
    ("loss", "bad"), [(simpo_loss, {"gamma": -1.0}), (simpo_loss, {"beta": 0.0}), (orpo_loss, {"beta": -1.0})]
)
def test_values_out_of_range_are_refused(loss, bad):
    with pytest.raises(ValueError, match="must"):
        loss(CHOSEN, REJECTED, **{"beta": 1.0, **bad})
