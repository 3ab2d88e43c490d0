"""KTO: every answer is judged on its own, as desirable or undesirable. Serves text and images."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_UTILITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "loss_averse": F.logsigmoid,
    "risk_seeking": lambda gain: -F.logsigmoid(-gain),
}

KTO_KINDS = tuple(_UTILITIES)
"""The utilities that `kind` may take."""


def kto_reference_point(log_ratio: Tensor, beta: float) -> Tensor:
    """The point that gains and losses are counted from: max(0, mean of beta * log-ratio over the batch), detached.

    It stands for beta * KL(pi_theta || pi_ref). Diffusion-KTO (Li et al. 2024, arXiv 2404.04465) estimates that by the
    batch's own images, liked and disliked, as its authors' code does (jacklishufan/diffusion-kto); KTO for text
    (Ethayarajh et al. 2024, arXiv 2402.01306) by prompts with another prompt's answer.

    Args:
        log_ratio: of every image of the batch, desirable or not, [N].

    Returns:
        A scalar in the unit of the reward.
    """
    return (beta * log_ratio.detach()).mean().clamp_min(0)


def kto_loss(
    log_ratio: Tensor,
    desirable: Tensor,
    reference_point: Tensor,
    *,
    beta: float,
    kind: str = "sigmoid",
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """w_y (1 - U(s (beta * log_ratio - Q))) of every answer, with s = +1 where desirable and -1 where not.

    `sigmoid`, U(x) = sigmoid(x): KTO (Ethayarajh et al. 2024), and the utility that Diffusion-KTO (Li et al. 2024)
    settles on. It compares two others with it: `loss_averse`, U(x) = log sigmoid(x), concave, and `risk_seeking`,
    U(x) = -log sigmoid(-x), convex, whose loss has no lower bound.

    Args:
        log_ratio: log pi(y|x) - log pi_ref(y|x), [N].
        desirable: [N] bool.
        reference_point: Q, a scalar in the unit of beta * log_ratio; no gradient goes through it.

    Returns:
        [N], not reduced.

    Raises:
        ValueError: an unknown kind, or a beta that is not positive.
    """
    if kind not in KTO_KINDS:
        raise ValueError(f"unknown utility {kind!r}; known: {', '.join(KTO_KINDS)}")
    if beta <= 0:
        raise ValueError(f"beta must be positive, not {beta}")
    gain = beta * log_ratio - reference_point.detach()
    gain = torch.where(desirable, gain, -gain)
    # Plain numbers in `where` would bring the default dtype with them.
    weight = desirable.to(gain.dtype) * (desirable_weight - undesirable_weight) + undesirable_weight
    return weight * (1 - _UTILITIES[kind](gain))
