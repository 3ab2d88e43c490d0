"""Policy optimisation on token sequences: shaped rewards, advantages, clipped losses, KL control.

Masks are [B, T] bool, True on real (completion) tokens, which stand in one run from the left or anywhere else; every
mean is over real tokens. Schulman et al. 2017 (PPO), Stiennon et al. 2020, Ouyang et al. 2022.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def ended_scores(score: Tensor, ended: Tensor, penalty: float) -> Tensor:
    """The scores of the answers that came to their end, and a fixed one of those that did not (Stiennon et al. 2020,
    appendix B): [B] float, [B] bool -> [B]."""
    return torch.where(ended, score, torch.full_like(score, penalty))


def shaped_rewards(score: Tensor, logps: Tensor, ref_logps: Tensor, mask: Tensor, *, kl_coef: float) -> Tensor:
    """-kl_coef * (log pi - log pi_ref) on every real token, plus the score on the last (Ouyang et al. 2022, sec. 3.5).

    Args:
        score: [B], of the whole answer.
        logps, ref_logps: [B, T].

    Returns:
        [B, T], 0 where masked.
    """
    rewards = (-kl_coef * (logps - ref_logps)).masked_fill(~mask, 0.0)
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = positions.mul(mask).amax(1)
    score = score.to(rewards.dtype) * mask.any(1)
    return rewards.scatter_add(1, last[:, None], score[:, None])


def generalized_advantage(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """GAE (Schulman et al. 2016) and the returns A + V, before any whitening. Both [B, T], 0 where masked.

    The value beyond the last real token is 0. Masked positions between real ones are stepped over.
    """
    advantages = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, 0])
    next_value = torch.zeros_like(values[:, 0])
    for t in range(rewards.shape[1] - 1, -1, -1):
        real = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = torch.where(real, delta + gamma * lam * following, following)
        next_value = torch.where(real, values[:, t], next_value)
        advantages[:, t] = torch.where(real, following, torch.zeros_like(following))
    return advantages, (advantages + values).masked_fill(~mask, 0.0)


def whiten(x: Tensor, mask: Tensor) -> Tensor:
    """(x - mean) / sqrt(var + 1e-8) over all real tokens, [B, T], 0 where masked (Ziegler et al. 2019)."""
    real = x[mask]
    white = (x - real.mean()) / (real.var(unbiased=False) + 1e-8).sqrt()
    return white.masked_fill(~mask, 0.0)


def policy_loss(logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor, *, clip: float = 0.2) -> Tensor:
    """PPO's clipped surrogate, negated (Schulman et al. 2017, eq. 7): a scalar, mean over real tokens."""
    ratio = (logps - old_logps).masked_fill(~mask, 0.0).exp()
    losses = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))
    return _masked_mean(losses, mask)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, *, clip: float = 0.2) -> Tensor:
    """1/2 * mean max((V - R)^2, (clip(V, V_old +- clip) - R)^2) over real tokens: a scalar."""
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    losses = torch.maximum((values - returns).square(), (clipped - returns).square())
    return 0.5 * _masked_mean(losses, mask)


def best_of_n_kl(n: int) -> float:
    """log n - (n - 1) / n: the KL in nats that picking the best of n answers costs at most (Stiennon et al. 2020,
    appendix G; exactly that where no two answers tie, Beirami et al. 2024)."""
    return math.log(n) - (n - 1) / n


class AdaptiveKL:
    """The controller of Ziegler et al. 2019, sec. 2.2: moves the coefficient so that the KL approaches a target.

    Args:
        coef: the starting coefficient.
        target: the wanted KL per answer, in nats.
        horizon: answers over which a full error of 20% is corrected by about e^0.2.
    """

    def __init__(self, coef: float, target: float, horizon: int) -> None:
        self.coef = coef
        self.target = target
        self.horizon = horizon

    def update(self, kl: float, n_episodes: int) -> None:
        """Take in the mean KL of `n_episodes` answers (of all processes together).

        More answers than the horizon count as the horizon: with more than five times as many the coefficient would
        turn negative, and reward drift.
        """
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.coef *= 1 + error * min(n_episodes / self.horizon, 1.0)


def _masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    return x.masked_fill(~mask, 0.0).sum() / mask.sum().clamp_min(1)
