"""SimPO and ORPO: no reference, and still a preference loss; only what stands in for the log-ratio is another."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffdpo.losses.preference import PreferenceOutput, preference_loss


def simpo_loss(chosen_logps: Tensor, rejected_logps: Tensor, *, beta: float, gamma: float = 0.0) -> PreferenceOutput:
    """-log sigmoid(beta * (chosen - rejected) - gamma) of mean log-probabilities: SimPO (Meng et al. 2024, eq. 6).

    That is `preference_loss` with log pi(y|x) / |y| in place of the log-ratio and a margin of gamma to clear.

    Args:
        chosen_logps, rejected_logps: mean log-probability of the answer's tokens, [B].
        gamma: the target margin, in the unit of the reward.

    Returns:
        The losses, not reduced; as rewards beta * log pi(y|x) / |y|, detached.

    Raises:
        ValueError: beta is not positive or gamma is negative.
    """
    if gamma < 0:
        raise ValueError(f"gamma must not be negative, not {gamma}")
    found = preference_loss(chosen_logps - gamma / beta if beta > 0 else chosen_logps, rejected_logps, beta=beta)
    return found._replace(chosen_reward=(beta * chosen_logps).detach())


def orpo_loss(chosen_logps: Tensor, rejected_logps: Tensor, *, beta: float) -> PreferenceOutput:
    """-log p_w - beta * log sigmoid(log odds_w - log odds_l): ORPO (Hong et al. 2024, arXiv 2403.07691, eq. 6-7).

    p is the geometric mean of the token probabilities and odds = p / (1 - p). The second term is `preference_loss`
    with the log-odds in place of the log-ratio.

    Args:
        chosen_logps, rejected_logps: mean log-probability of the answer's tokens, [B], below 0.
        beta: weight of the preference beside the likelihood of the chosen answer; the paper's lambda.

    Returns:
        The losses, not reduced; as rewards beta * log odds, detached.

    Raises:
        ValueError: beta is not positive.
    """
    if beta <= 0:
        raise ValueError(f"beta must be positive, not {beta}")
    odds_w, odds_l = log_odds(chosen_logps), log_odds(rejected_logps)
    preferred = preference_loss(odds_w, odds_l, beta=1.0)
    return PreferenceOutput(
        loss=-chosen_logps + beta * preferred.loss,
        chosen_reward=beta * preferred.chosen_reward,
        rejected_reward=beta * preferred.rejected_reward,
    )


def log_odds(logp: Tensor) -> Tensor:
    """log(p / (1 - p)) from log p, of any shape; finite at p = 1 too, where it stops growing."""
    logp = logp.clamp_max(-torch.finfo(logp.dtype).eps)
    # log(1 - e^x): expm1 is exact near 0 and log1p far below; both branches are kept finite for the gradient.
    near = torch.log(-torch.expm1(logp.clamp_min(-math.log(2))))
    far = torch.log1p(-torch.exp(logp.clamp_max(-math.log(2))))
    return logp - torch.where(logp > -math.log(2), near, far)
