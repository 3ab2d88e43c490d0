"""Losses on the margin between two log-ratios. They serve text and images alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class PreferenceOutput(NamedTuple):
    """Per-example results, each [B]. The rewards are detached."""

    loss: Tensor
    chosen_reward: Tensor
    rejected_reward: Tensor


def preference_loss(
    chosen_logratio: Tensor,
    rejected_logratio: Tensor,
    *,
    beta: float,
    kind: str = "sigmoid",
    label_smoothing: float = 0.0,
) -> PreferenceOutput:
    """How badly the policy's implicit rewards explain that `chosen` was preferred to `rejected`.

    Args:
        chosen_logratio: log pi(y_w|x) - log pi_ref(y_w|x), [B].
        rejected_logratio: the same of y_l, [B].
        beta: strength of the tie to the reference; the implicit reward is beta * logratio.
        kind: one of `KINDS`.
        label_smoothing: share of labels taken to be flipped, in [0, 0.5). `sigmoid` hedges by it (cDPO), `robust`
            corrects for it; the other kinds do not know it.

    Returns:
        The loss of each example, not reduced, and both implicit rewards.

    Raises:
        ValueError: an unknown kind, or a value out of its range.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown preference loss {kind!r}; known: {', '.join(KINDS)}")
    if beta <= 0:
        raise ValueError(f"beta must be positive, not {beta}")
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must lie in [0, 0.5), not {label_smoothing}")
    if label_smoothing and kind not in ("sigmoid", "robust"):
        raise ValueError(f"label_smoothing has no meaning for {kind!r}; it goes with sigmoid or robust")
    margin = chosen_logratio - rejected_logratio
    return PreferenceOutput(
        loss=_LOSSES[kind](margin, beta, label_smoothing),
        chosen_reward=(beta * chosen_logratio).detach(),
        rejected_reward=(beta * rejected_logratio).detach(),
    )


def _sigmoid(margin: Tensor, beta: float, eps: float) -> Tensor:
    """Rafailov et al. 2023, eq. 7; with eps > 0 the conservative form of Mitchell 2023."""
    return -(1 - eps) * F.logsigmoid(beta * margin) - eps * F.logsigmoid(-beta * margin)


def _robust(margin: Tensor, beta: float, eps: float) -> Tensor:
    """Chowdhury et al. 2024: unbiased under labels flipped with probability eps."""
    return (-(1 - eps) * F.logsigmoid(beta * margin) + eps * F.logsigmoid(-beta * margin)) / (1 - 2 * eps)


def _ipo(margin: Tensor, beta: float, _: float) -> Tensor:
    """Azar et al. 2023, eq. 17."""
    return (margin - 1 / (2 * beta)).square()


def _hinge(margin: Tensor, beta: float, _: float) -> Tensor:
    """Zhao et al. 2023 (SLiC), on the log-ratio."""
    return F.relu(1 - beta * margin)


_LOSSES: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "sigmoid": _sigmoid,
    "ipo": _ipo,
    "hinge": _hinge,
    "robust": _robust,
}

KINDS = tuple(_LOSSES)
"""The names that `kind` may take."""
