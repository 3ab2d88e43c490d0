"""KTO against its formula (Ethayarajh et al. 2024), in plain float64 arithmetic."""

import math

import pytest
import torch

from diffdpo.losses import kto_loss, kto_reference_point

RATIOS = [0.012, -0.004, 0.001, -0.02, 0.0]
DESIRABLE = [True, True, False, False, True]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


UTILITIES = {
    "sigmoid": sigmoid,
    "loss_averse": lambda x: math.log(sigmoid(x)),
    "risk_seeking": lambda x: -math.log(sigmoid(-x)),
}


@pytest.mark.parametrize(("kind", "utility"), UTILITIES.items(), ids=UTILITIES)
def test_loss_is_the_formula(kind, utility):
    beta, point = 300.0, 0.4
    expected = [
        1.3 * (1 - utility(beta * r - point)) if good else 0.7 * (1 - utility(point - beta * r))
        for r, good in zip(RATIOS, DESIRABLE, strict=True)
    ]
    losses = kto_loss(
        torch.tensor(RATIOS, dtype=torch.float64),
        torch.tensor(DESIRABLE),
        torch.tensor(point, dtype=torch.float64),
        beta=beta,
        kind=kind,
        desirable_weight=1.3,
        undesirable_weight=0.7,
    )
    assert losses.tolist() == pytest.approx(expected, rel=1e-10)


def test_reference_point_is_the_clamped_mean_and_has_no_gradient():
    ratios = torch.tensor(RATIOS, dtype=torch.float64, requires_grad=True)
    assert kto_reference_point(ratios, 100.0).item() == 0.0  # the mean is negative
    assert kto_reference_point(-ratios, 100.0).item() == pytest.approx(100 * 0.011 / 5, rel=1e-9)
    assert not kto_reference_point(-ratios, 100.0).requires_grad


def test_policy_equal_to_reference_gives_one_half():
    zero = torch.zeros(4)
    losses = kto_loss(zero, torch.tensor([True, False, True, False]), kto_reference_point(zero, 5.0), beta=5.0)
    assert losses.tolist() == [0.5] * 4


def test_desirable_and_undesirable_mirror_each_other():
    ratio, point = torch.tensor([0.3]), torch.tensor(0.0)
    good = kto_loss(ratio, torch.tensor([True]), point, beta=2.0)
    bad = kto_loss(-ratio, torch.tensor([False]), point, beta=2.0)
    assert good.item() == pytest.approx(bad.item(), rel=1e-6)


def test_unfit_arguments_are_refused():
    ratio = torch.zeros(1)
    with pytest.raises(ValueError, match="unknown utility"):
        kto_loss(ratio, torch.tensor([True]), ratio[0], beta=1.0, kind="x")
    with pytest.raises(ValueError, match="positive"):
        kto_loss(ratio, torch.tensor([True]), ratio[0], beta=0.0)
