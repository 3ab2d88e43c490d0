"""How much each pair counts, from how far apart its two answers were judged. Serves text and images."""

from __future__ import annotations

import torch
from torch import Tensor

MARGIN_CAP = 4.0
"""A margin counts for at most this many times the mean margin, so that a few extreme scores do not rule a batch."""


def margin_weights(margins: Tensor, unknown: Tensor, *, cap: float = MARGIN_CAP) -> Tensor:
    """Weights in proportion to the margin, with mean 1: w_i = m_i / mean(m), m_i = min(max(margin_i, 0), cap * mean).

    A pair's loss weighed by the difference of its rewards is Reward Difference Optimization (Wang et al. 2024, arXiv
    2408.09385). The mean of 1 and the cap are this package's: they keep the size of a step, and with it the learning
    rate, what they are without weights.

    Args:
        margins: by how much the winner's score is the higher, [N]. Below 0, where the label and the scores are not of
            one mind, it counts as 0.
        unknown: [N] bool: no margin is known, or it means nothing (a tie). These weigh 1. A margin that is not finite
            is unknown too.
        cap: at least 1.

    Returns:
        [N] float32.

    Raises:
        ValueError: a cap below 1, or no known margin is above 0.
    """
    if cap < 1:
        raise ValueError(f"cap must be at least 1, not {cap}")
    known = ~unknown & margins.isfinite()
    each = margins[known].double().clamp_min(0)
    if not bool((each > 0).any()):
        raise ValueError("no margin is above 0, so there is nothing to weigh by")
    each = each.clamp_max(cap * each.mean().item())
    weights = torch.ones(len(margins), dtype=torch.float64)
    weights[known] = each / each.mean()
    return weights.float()
