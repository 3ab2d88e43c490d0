"""PPO's pieces against loops written from the formulas."""

import math

import pytest
import torch

from diffdpo.losses import (
    AdaptiveKL,
    best_of_n_kl,
    ended_scores,
    generalized_advantage,
    policy_loss,
    shaped_rewards,
    value_loss,
    whiten,
)

MASK = torch.tensor([[True, True, True, False], [True, True, False, False]])


def test_score_lands_on_the_last_real_token_and_kl_on_all():
    logps = torch.tensor([[-1.0, -2.0, -3.0, 9.0], [-0.5, -0.5, 9.0, 9.0]])
    ref = torch.tensor([[-1.5, -1.0, -3.0, 0.0], [-0.25, -1.0, 0.0, 0.0]])
    rewards = shaped_rewards(torch.tensor([10.0, 20.0]), logps, ref, MASK, kl_coef=0.1)
    expected = [[-0.05, 0.1, 10.0, 0.0], [0.025, 20 - 0.05, 0.0, 0.0]]
    torch.testing.assert_close(rewards, torch.tensor(expected))


def test_a_row_without_real_tokens_gets_nothing():
    mask = torch.zeros(1, 3, dtype=torch.bool)
    assert shaped_rewards(torch.tensor([5.0]), torch.ones(1, 3), torch.zeros(1, 3), mask, kl_coef=1.0).abs().sum() == 0


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0)])
def test_advantage_is_the_sum_of_discounted_deltas(gamma, lam):
    torch.manual_seed(1)
    rewards, values = torch.randn(2, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    advantages, returns = generalized_advantage(rewards, values, MASK, gamma=gamma, lam=lam)
    for row, length in ((0, 3), (1, 2)):
        v = [*values[row, :length].tolist(), 0.0]
        deltas = [rewards[row, t].item() + gamma * v[t + 1] - v[t] for t in range(length)]
        expected = [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, length)) for t in range(length)]
        assert advantages[row, :length].tolist() == pytest.approx(expected, rel=1e-12)
        assert returns[row, :length].tolist() == pytest.approx([a + b for a, b in zip(expected, v, strict=False)])
    assert advantages[~MASK].abs().sum() == 0
    assert returns[~MASK].abs().sum() == 0


def test_policy_loss_is_the_clipped_surrogate_over_real_tokens():
    logps = torch.log(torch.tensor([[1.5, 0.5, 1.1, 7.0], [1.0, 0.7, 3.0, 3.0]]))
    advantages = torch.tensor([[1.0, 1.0, -2.0, 9.0], [-1.0, -1.0, 9.0, 9.0]])
    terms = [-1.2, -0.5, 2.2, 1.0, 0.8]  # min(rho A, clip(rho) A), negated, token by token
    loss = policy_loss(logps, torch.zeros(2, 4), advantages, MASK)
    assert loss.item() == pytest.approx(sum(terms) / 5, rel=1e-6)


def test_value_loss_takes_the_worse_of_free_and_clipped():
    values, old = torch.tensor([[1.0, 0.0, 0.5, 0.0]]), torch.tensor([[0.0, 0.0, 0.5, 9.0]])
    returns = torch.tensor([[1.0, 2.0, 0.0, 5.0]])
    terms = [max(0.0, (0.2 - 1) ** 2), 4.0, 0.25]
    assert value_loss(values, old, returns, MASK[:1]).item() == pytest.approx(0.5 * sum(terms) / 3)


def test_adaptive_kl_moves_towards_its_target_by_at_most_a_fifth():
    controller = AdaptiveKL(0.1, target=6.0, horizon=1000)
    controller.update(60.0, 500)
    assert controller.coef == pytest.approx(0.1 * (1 + 0.2 * 0.5))
    controller.update(5.7, 1000)
    assert controller.coef == pytest.approx(0.11 * (1 - 0.05))


def test_adaptive_kl_stays_a_cost_however_many_answers_there_are():
    controller = AdaptiveKL(0.1, target=6.0, horizon=80)
    controller.update(0.0, 512)
    assert controller.coef == pytest.approx(0.1 * (1 - 0.2))


def test_masked_infinities_do_no_harm():
    logps = torch.tensor([[0.0, math.inf]], requires_grad=True)
    loss = policy_loss(logps, torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([[True, False]]))
    loss.backward()
    assert loss.isfinite()
    assert logps.grad.isfinite().all()


def test_whitened_values_have_mean_0_and_variance_1_over_real_tokens():
    values = torch.tensor([[1.0, 2.0, 6.0, 99.0], [3.0, -7.0, 99.0, math.inf]])
    real = [1.0, 2.0, 6.0, 3.0, -7.0]
    deviation = math.sqrt(sum((x - 1.0) ** 2 for x in real) / 5 + 1e-8)
    white = whiten(values, MASK)
    assert white[MASK].tolist() == pytest.approx([(x - 1.0) / deviation for x in real])
    assert white[~MASK].tolist() == [0, 0, 0]
    assert whiten(torch.full((1, 2), 3.0), torch.ones(1, 2, dtype=torch.bool)).tolist() == [[0, 0]]


def test_an_answer_without_an_end_has_the_fixed_score():
    found = ended_scores(torch.tensor([2.0, 5.0]), torch.tensor([True, False]), -1.0)
    assert found.tolist() == [2.0, -1.0]


def test_the_kl_of_the_best_of_n_is_that_of_the_highest_of_n_uniform_draws():
    """Its density is n u^(n - 1): the KL to the uniform one, by integration."""
    for n in (1, 2, 16):
        u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
        density = n * u ** (n - 1)
        assert best_of_n_kl(n) == pytest.approx((density * density.log()).mean().item(), abs=1e-4)
