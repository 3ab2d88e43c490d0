"""The whole theory, as pure functions of tensors. Imports torch and nothing else.

Every preference loss is a function of log-ratios, log pi(y|x) - log pi_ref(y|x), of the chosen and the rejected answer.
Text has them exactly; diffusion bounds them by denoising errors (`denoising`). From there on the two are the same code.
"""

from diffdpo.losses.denoising import denoising_error, diffusion_dpo_loss, log_ratio_from_errors, winner_safeguard
from diffdpo.losses.kto import KTO_KINDS, kto_loss, kto_reference_point
from diffdpo.losses.mapo import mapo_loss, mapo_score
from diffdpo.losses.policy import (
    AdaptiveKL,
    best_of_n_kl,
    ended_scores,
    generalized_advantage,
    policy_loss,
    shaped_rewards,
    value_loss,
    whiten,
)
from diffdpo.losses.preference import KINDS, PreferenceOutput, preference_loss
from diffdpo.losses.ranking import ranking_loss, soft_label_loss
from diffdpo.losses.reference_free import orpo_loss, simpo_loss
from diffdpo.losses.weighting import MARGIN_CAP, margin_weights

__all__ = [
    "KINDS",
    "KTO_KINDS",
    "MARGIN_CAP",
    "AdaptiveKL",
    "PreferenceOutput",
    "best_of_n_kl",
    "denoising_error",
    "diffusion_dpo_loss",
    "ended_scores",
    "generalized_advantage",
    "kto_loss",
    "kto_reference_point",
    "log_ratio_from_errors",
    "mapo_loss",
    "mapo_score",
    "margin_weights",
    "orpo_loss",
    "policy_loss",
    "preference_loss",
    "ranking_loss",
    "shaped_rewards",
    "simpo_loss",
    "soft_label_loss",
    "value_loss",
    "whiten",
    "winner_safeguard",
]
