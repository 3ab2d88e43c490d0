"""The tiny Stable Diffusion: a UNet trained on careful and sloppy scenes in equal parts.

So it imitates the average of what it saw and still knows what a careful picture looks like: the state that
preference tuning starts from.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel

from diffdpo.fit import Schedule, fit, silence_residual_branches
from diffdpo.shapes.build.autoencoder import LATENT_CHANNELS
from diffdpo.shapes.build.captions import tokenize
from diffdpo.shapes.build.pictures import careful_or_sloppy, draw_scene, to_tensor
from diffdpo.shapes.build.text_encoder import WIDTH
from diffdpo.shapes.build.tokenizer import new_tokenizer

SLOPPY_SHARE = 0.5
BATCH = 64
CAPTION_DROPOUT = 0.1
N_PICTURES = 48_000
HIGHEST_WEIGHT = 10.0


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.x's noise schedule."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def new_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(80, 144),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def train_generator(
    vae: AutoencoderKL, text_encoder: CLIPTextModel, work: Path, seed: int, steps: int
) -> StableDiffusionPipeline:
    """Train the UNet on noise prediction, all else frozen as in Stable Diffusion, and put the pipeline together."""
    torch.manual_seed(seed)
    unet = new_unet()
    silence_residual_branches(unet)
    # A CPU's bf16 convolutions are an eighth faster in this layout.
    unet = unet.to(memory_format=torch.channels_last)
    captions, rows_of, means, stds = _encoded_pictures(vae, work, seed)
    texts = _encoded_texts(text_encoder, ["", *captions])
    scheduler = new_scheduler()
    abar = scheduler.alphas_cumprod

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(len(means), (BATCH,))
        latents = means[rows] + stds[rows] * torch.randn(means[rows].shape)
        noise, timesteps = torch.randn_like(latents), late_timesteps(len(abar), BATCH)
        level = abar[timesteps, None, None, None]
        x_t = level.sqrt() * latents + (1 - level).sqrt() * noise
        told = texts[torch.where(torch.rand(BATCH) < CAPTION_DROPOUT, 0, rows_of[rows] + 1)]
        with torch.autocast("cpu", torch.bfloat16):
            prediction = unet(x_t, timesteps, told).sample
        errors = (prediction.float() - noise).square().mean(dim=(1, 2, 3))
        weights = weights_of_v(abar[timesteps])
        return (weights * errors).mean() / weights.mean(), {"error": errors.mean().item()}

    fit("generator", unet, loss_at, Schedule(steps, learning_rate=8e-4, warmup=300), work)
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=new_tokenizer(),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def late_timesteps(n: int, batch: int) -> Tensor:
    """Steps in 0..n-1, drawn in proportion to their number, [batch] int64.

    Where things stand is settled in the noisiest fifth of the steps, at which the plain loss is smallest; drawn evenly,
    a small model learns relations last.
    """
    return (torch.rand(batch).sqrt() * n).long().clamp(max=n - 1)


def weights_of_v(abar: Tensor) -> Tensor:
    """min(1 / abar, HIGHEST_WEIGHT), [B]: makes the noise's squared error that of v (Salimans and Ho 2022), capped."""
    return (1 / abar).clamp(max=HIGHEST_WEIGHT)


@torch.no_grad()
def _encoded_pictures(vae: AutoencoderKL, work: Path, seed: int) -> tuple[list[str], Tensor, Tensor, Tensor]:
    """The different captions, the number [N] of each picture's, and the scaled posterior's mean and standard deviation
    [N, c, 8, 8]; the pictures' part cached in `work`.
    """
    weights = torch.cat([parameter.flatten() for parameter in vae.parameters()])
    path = work / f"pictures-{hashlib.sha256(weights.numpy().tobytes()).hexdigest()[:12]}.pt"
    if not path.exists():
        rng = np.random.default_rng([seed, 2])
        captions, means, stds = [], [], []
        for _ in range(N_PICTURES // 250):
            scenes = [draw_scene(rng) for _ in range(250)]
            posterior = vae.encode(
                to_tensor([careful_or_sloppy(scene, rng, SLOPPY_SHARE) for scene in scenes])
            ).latent_dist
            captions += [scene.caption for scene in scenes]
            means.append(posterior.mean * vae.config.scaling_factor)
            stds.append(posterior.std * vae.config.scaling_factor)
        torch.save((captions, torch.cat(means), torch.cat(stds)), path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
    told, means_all, stds_all = torch.load(path, weights_only=True)
    different = {caption: number for number, caption in enumerate(dict.fromkeys(told))}
    return list(different), torch.tensor([different[caption] for caption in told]), means_all, stds_all


@torch.no_grad()
def _encoded_texts(text_encoder: CLIPTextModel, captions: list[str]) -> Tensor:
    """Hidden states, [N, L, WIDTH]."""
    hidden: Tensor = text_encoder(tokenize(captions)).last_hidden_state
    return hidden
