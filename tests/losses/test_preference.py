"""Preference losses against the papers' formulas, computed in plain Python floats."""

import math

import pytest
import torch

from diffdpo.losses import KINDS, preference_loss

CHOSEN = [0.7, -1.3, 2.0, 0.0, -40.0]
REJECTED = [-0.2, 0.4, 2.0, -3.0, 35.0]


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > -30 else x


def run(kind: str, beta: float, eps: float = 0.0) -> list[float]:
    chosen, rejected = torch.tensor(CHOSEN, dtype=torch.float64), torch.tensor(REJECTED, dtype=torch.float64)
    return preference_loss(chosen, rejected, beta=beta, kind=kind, label_smoothing=eps).loss.tolist()


def margins() -> list[float]:
    return [w - r for w, r in zip(CHOSEN, REJECTED, strict=True)]


def test_sigmoid_is_equation_7_of_the_dpo_paper():
    expected = [-log_sigmoid(0.1 * m) for m in margins()]
    assert run("sigmoid", 0.1) == pytest.approx(expected, rel=1e-12)


def test_label_smoothing_of_sigmoid_is_conservative_dpo():
    expected = [-0.8 * log_sigmoid(0.3 * m) - 0.2 * log_sigmoid(-0.3 * m) for m in margins()]
    assert run("sigmoid", 0.3, 0.2) == pytest.approx(expected, rel=1e-12)


def test_robust_divides_out_the_flips():
    expected = [(-0.9 * log_sigmoid(0.3 * m) + 0.1 * log_sigmoid(-0.3 * m)) / 0.8 for m in margins()]
    assert run("robust", 0.3, 0.1) == pytest.approx(expected, rel=1e-12)


def test_robust_is_unbiased_under_flipped_labels():
    eps, beta = 0.2, 0.4
    a, b = torch.tensor([0.9], dtype=torch.float64), torch.tensor([-0.5], dtype=torch.float64)
    straight = preference_loss(a, b, beta=beta, kind="robust", label_smoothing=eps).loss
    flipped = preference_loss(b, a, beta=beta, kind="robust", label_smoothing=eps).loss
    clean = preference_loss(a, b, beta=beta).loss
    assert ((1 - eps) * straight + eps * flipped).item() == pytest.approx(clean.item(), rel=1e-12)


def test_ipo_is_the_squared_distance_to_half_over_beta():
    assert run("ipo", 0.1) == pytest.approx([(m - 5.0) ** 2 for m in margins()], rel=1e-12)


def test_hinge():
    assert run("hinge", 0.5) == pytest.approx([max(0.0, 1 - 0.5 * m) for m in margins()], rel=1e-12)


def test_equal_policy_and_reference_give_ln_2():
    zero = torch.zeros(4)
    assert preference_loss(zero, zero, beta=5000.0).loss.tolist() == pytest.approx([0.693147] * 4, abs=5e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_constant_added_to_both_log_ratios_changes_nothing(kind):
    chosen, rejected = torch.tensor(CHOSEN, dtype=torch.float64), torch.tensor(REJECTED, dtype=torch.float64)
    plain = preference_loss(chosen, rejected, beta=0.2, kind=kind).loss
    shifted = preference_loss(chosen + 3, rejected + 3, beta=0.2, kind=kind).loss
    torch.testing.assert_close(plain, shifted, rtol=1e-12, atol=1e-12)


def test_swapping_mirrors_the_sigmoid_loss():
    chosen, rejected = torch.tensor([1.5], dtype=torch.float64), torch.tensor([0.25], dtype=torch.float64)
    straight = preference_loss(chosen, rejected, beta=0.7).loss.item()
    swapped = preference_loss(rejected, chosen, beta=0.7).loss.item()
    assert swapped - straight == pytest.approx(0.7 * 1.25, rel=1e-12)  # -log s(-x) + log s(x) = x


def test_rewards_are_beta_times_the_log_ratio_and_carry_no_gradient():
    chosen = torch.tensor([2.0], requires_grad=True)
    output = preference_loss(chosen, torch.tensor([-1.0]), beta=0.5)
    assert (output.chosen_reward.item(), output.rejected_reward.item()) == (1.0, -0.5)
    assert not output.chosen_reward.requires_grad
    assert output.loss.requires_grad


def test_huge_margins_stay_finite():
    out = preference_loss(torch.tensor([-1e4]), torch.tensor([1e4]), beta=1.0)
    assert out.loss.item() == pytest.approx(2e4)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"kind": "nca"}, "sigmoid"),
        ({"beta": 0.0}, "beta"),
        ({"label_smoothing": 0.5}, "label_smoothing"),
        ({"kind": "ipo", "label_smoothing": 0.1}, "no meaning"),
    ],
)
def test_unfit_arguments_are_refused(options, word):
    with pytest.raises(ValueError, match=word):
        preference_loss(torch.zeros(1), torch.zeros(1), **{"beta": 1.0, **options})
