"""MaPO: preference tuning of a denoiser without a reference."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from diffdpo.losses.preference import PreferenceOutput


def mapo_score(error: Tensor, snr: float) -> Tensor:
    """x / (exp(x) - 1) at x = snr * error, [B] -> [B]: 1 at no error, falling towards 0 as the error grows."""
    x = snr * error
    # The same as x / expm1(x), whose gradient overflows for large x; 0/0 is avoided at a vanishing one.
    x = x.clamp_min(torch.finfo(x.dtype).tiny)
    return x * torch.exp(-x) / -torch.expm1(-x)


def mapo_loss(
    error_w: Tensor, error_l: Tensor, *, beta: float = 0.1, snr: float = 0.5, n_timesteps: int = 1000
) -> PreferenceOutput:
    """e_w - beta * log sigmoid(T * (s(e_w) - s(e_l))), s(e) = snr*e / (exp(snr*e) - 1).

    MaPO (Hong et al. 2024, arXiv 2406.06424), in the form and with the defaults of its authors' code (mapo-t2i/mapo,
    `compute_loss` in utils.py): the winner's denoising loss plus a margin between scores that stand in for the
    log-odds; T, the number of training timesteps, spreads the margin of one timestep over the whole chain. `snr`
    stands there for the timestep's own signal-to-noise ratio, as a constant.

    Args:
        error_w, error_l: mean squared errors on the noised winner and loser at one shared draw, [B].
        beta: weight of the margin beside the denoising loss.
        snr: scale of the errors within the score.

    Returns:
        The losses, not reduced; as rewards T * s(e), detached.

    Raises:
        ValueError: beta or snr is not positive.
    """
    if beta <= 0 or snr <= 0:
        raise ValueError(f"beta and snr must be positive, not {beta} and {snr}")
    score_w, score_l = n_timesteps * mapo_score(error_w, snr), n_timesteps * mapo_score(error_l, snr)
    return PreferenceOutput(
        loss=error_w - beta * F.logsigmoid(score_w - score_l),
        chosen_reward=score_w.detach(),
        rejected_reward=score_l.detach(),
    )
