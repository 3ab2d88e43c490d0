"""The methods' losses written out from the papers, in float64, on networks called as diffusers' own pipelines do."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FluxPipeline
from torch import Tensor
from torch.nn.functional import softplus


def call(pipeline: Any, x_t: Tensor, timesteps: Tensor, given: dict[str, Tensor], guidance: float = 1.0) -> Tensor:
    """What the pipeline's network answers, [B, 4, 8, 8]."""
    states, pooled = given["prompt_embeds"], given.get("pooled_prompt_embeds")
    if hasattr(pipeline, "unet"):
        added = {"text_embeds": pooled, "time_ids": given.get("time_ids")}
        return pipeline.unet(x_t, timesteps, states, added_cond_kwargs=added).sample
    if not isinstance(pipeline, FluxPipeline):
        return pipeline.transformer(x_t, states, pooled, timesteps).sample
    guided = pipeline.transformer.config.guidance_embeds
    answer = pipeline.transformer(
        pipeline._pack_latents(x_t, len(x_t), 4, 8, 8),
        states,
        pooled,
        timesteps / 1000,
        pipeline._prepare_latent_image_ids(len(x_t), 4, 4, "cpu", torch.float32),
        torch.zeros(states.shape[1], 3),
        guidance=torch.full((len(x_t),), guidance) if guided else None,
    ).sample
    return pipeline._unpack_latents(answer, 16, 16, pipeline.vae_scale_factor)


def noised(scheduler: Any, x_0: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """x_t and target: Ho et al. 2020, eq. 4 with noise or v (Salimans and Ho 2022); or the straight path of flows."""
    given = scheduler.config
    if "beta_schedule" not in given:
        s = (timesteps.double() / given.num_train_timesteps).reshape(-1, 1, 1, 1)
        return (1 - s) * x_0 + s * noise, noise - x_0
    power = {"linear": 1.0, "scaled_linear": 2.0}[given.beta_schedule]
    ends = given.beta_start ** (1 / power), given.beta_end ** (1 / power)
    betas = torch.linspace(*ends, given.num_train_timesteps, dtype=torch.float64) ** power
    abar = (1 - betas).cumprod(0)[timesteps].reshape(-1, 1, 1, 1)
    v = given.prediction_type == "v_prediction"
    target = abar.sqrt() * noise - (1 - abar).sqrt() * x_0 if v else noise
    return abar.sqrt() * x_0 + (1 - abar).sqrt() * noise, target


def dpo(e_w: Tensor, e_l: Tensor, ref_w: Tensor, ref_l: Tensor, *, beta: float) -> Tensor:
    """-log sigmoid(-(beta/2) [(e_w - ref_w) - (e_l - ref_l)]), Wallace et al. 2023, eq. 14."""
    return softplus(beta / 2 * ((e_w - ref_w) - (e_l - ref_l)))


def kto(
    e_w: Tensor, e_l: Tensor, ref_w: Tensor, ref_l: Tensor, *, beta: float, liked: float, disliked: float
) -> Tensor:
    """w (1 - sigmoid(+-(r - Q))), r = -(beta/2)(e - ref), Q = max(0, mean r), over the two images of a pair."""
    r_w, r_l = -beta / 2 * (e_w - ref_w), -beta / 2 * (e_l - ref_l)
    point = max(0.0, float(torch.cat([r_w, r_l]).mean()))
    return (liked / (1 + torch.exp(r_w - point)) + disliked / (1 + torch.exp(point - r_l))) / 2


def mapo(e_w: Tensor, e_l: Tensor, *_: Tensor, beta: float, snr: float) -> Tensor:
    """e_w - beta log sigmoid(T (s(e_w) - s(e_l))), s(e) = snr e / (exp(snr e) - 1), T = 1000."""
    score_w, score_l = (snr * e / (torch.exp(snr * e) - 1) for e in (e_w, e_l))
    return e_w + beta * softplus(-1000 * (score_w - score_l))


def sft(e_w: Tensor, *_: Tensor) -> Tensor:
    """The winner's denoising error."""
    return e_w


LOSSES = {"dpo": dpo, "kto": kto, "mapo": mapo, "sft": sft}
