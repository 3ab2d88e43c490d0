"""From denoising errors to log-ratios: the likelihood of diffusion models, one timestep at a time.

With e the mean squared error over C, H, W, the evidence bound gives -(e_theta - e_ref) in place of the log-ratio
(Wallace et al. 2023, eq. 14). Constants (T, omega) are folded into beta.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffdpo.losses.preference import PreferenceOutput, preference_loss


def denoising_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each example, [B, C, H, W] of any float dtype -> [B] float32.

    Both are cast before the square: at beta = 5000 a bf16 square puts an error of 0.5 to 4 on the logit.
    Float64 stays float64.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape")
    dtype = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
    return (prediction.to(dtype) - target.to(dtype)).square().flatten(1).mean(1)


def log_ratio_from_errors(error: Tensor, ref_error: Tensor) -> Tensor:
    """The bound on log pi(y|x) - log pi_ref(y|x), up to a constant factor. [B], [B] -> [B]."""
    return ref_error - error


def diffusion_dpo_loss(
    error_w: Tensor,
    error_l: Tensor,
    ref_error_w: Tensor,
    ref_error_l: Tensor,
    *,
    beta: float = 5000.0,
    kind: str = "sigmoid",
    label_smoothing: float = 0.0,
) -> PreferenceOutput:
    """Diffusion-DPO (Wallace et al. 2023, eq. 14) on the errors of one shared (timestep, noise) draw per pair.

    Args:
        error_w, error_l: the policy's mean squared errors on the noised winner and loser, [B].
        ref_error_w, ref_error_l: the reference's, for the same inputs, [B].
        beta: in the official convention, `-log sigmoid(-(beta/2) * [(e_w - ref_w) - (e_l - ref_l)])` with errors that
            are means over C, H, W. Code without the half writes beta/2 for the same thing; code that sums over
            C, H, W writes beta / (2 * C*H*W) or, keeping the half, beta / (C*H*W).
    """
    return preference_loss(
        log_ratio_from_errors(error_w, ref_error_w),
        log_ratio_from_errors(error_l, ref_error_l),
        beta=beta / 2,
        kind=kind,
        label_smoothing=label_smoothing,
    )


def winner_safeguard(
    prediction_w: Tensor, prediction_l: Tensor, target_w: Tensor, target_l: Tensor, mu: float
) -> Tensor:
    """How much of the loser's gradient may pass, so that no step raises the winner's own error.

    SDPO (arXiv 2511.03317): `clamp((1 - mu) |g_w|^2 / <g_w, g_l>, 0, 1)` with g the gradient of e with respect to the
    prediction, and 1 where <g_w, g_l> <= 0 (there the loser's ascent helps the winner).

    Args:
        prediction_w, ..., target_l: [B, C, H, W].
        mu: in [0, 1]; 1 silences a loser that pulls against the winner, 0 lets it cancel the winner at most.

    Returns:
        [B] factors in [0, 1], detached, float32.
    """
    if not 0 <= mu <= 1:
        raise ValueError(f"mu must lie in [0, 1], not {mu}")
    # The gradients share the factor 2/CHW, which drops out.
    g_w = (prediction_w.detach().float() - target_w.float()).flatten(1)
    g_l = (prediction_l.detach().float() - target_l.float()).flatten(1)
    inner = (g_w * g_l).sum(1)
    factor = (1 - mu) * g_w.square().sum(1) / inner.clamp_min(torch.finfo(inner.dtype).tiny)
    return torch.where(inner > 0, factor.clamp(0, 1), torch.ones_like(factor))
