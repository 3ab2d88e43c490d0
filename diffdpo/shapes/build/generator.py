"""The tiny Stable Diffusion: text encoder and UNet trained on careful and sloppy scenes in equal parts.

So it imitates the average of what it saw and still knows what a careful picture looks like: the state that
preference tuning starts from.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from diffdpo.shapes.build.autoencoder import LATENT_CHANNELS
from diffdpo.shapes.build.fit import Schedule, fit, silence_residual_branches
from diffdpo.shapes.build.pictures import careful_or_sloppy, draw_scene, to_tensor
from diffdpo.shapes.build.tokenizer import MAX_LENGTH, new_tokenizer

SLOPPY_SHARE = 0.5
BATCH = 64
CAPTION_DROPOUT = 0.1
N_PICTURES = 48_000
TEXT_WIDTH = 128


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
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def new_text_encoder() -> CLIPTextModel:
    tokenizer = new_tokenizer()
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class _Denoiser(nn.Module):
    """Text encoder and UNet as one trainable thing."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder = new_text_encoder()
        self.unet = new_unet()
        silence_residual_branches(self.unet)

    def forward(self, x_t: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
        prediction: Tensor = self.unet(x_t, timesteps, self.text_encoder(ids).last_hidden_state).sample
        return prediction


def train_generator(vae: AutoencoderKL, work: Path, seed: int, steps: int) -> StableDiffusionPipeline:
    """Train on noise prediction and put the pipeline together."""
    torch.manual_seed(seed)
    # A CPU's bf16 convolutions are an eighth faster in this layout.
    model = _Denoiser().to(memory_format=torch.channels_last)
    ids, means, stds = _encoded_pictures(vae, work, seed)
    empty = _tokenize([""])[0]
    scheduler = new_scheduler()
    abar = scheduler.alphas_cumprod

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        rows = torch.randint(len(ids), (BATCH,))
        latents = means[rows] + stds[rows] * torch.randn(means[rows].shape)
        noise, timesteps = torch.randn_like(latents), late_timesteps(len(abar), BATCH)
        level = abar[timesteps, None, None, None]
        x_t = level.sqrt() * latents + (1 - level).sqrt() * noise
        captions = torch.where(torch.rand(BATCH, 1) < CAPTION_DROPOUT, empty, ids[rows])
        with torch.autocast("cpu", torch.bfloat16):
            prediction = model(x_t, timesteps, captions)
        return F.mse_loss(prediction.float(), noise), {}

    fit("generator", model, loss_at, Schedule(steps, learning_rate=8e-4, warmup=300), work)
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=new_tokenizer(),
        unet=model.unet,
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


@torch.no_grad()
def _encoded_pictures(vae: AutoencoderKL, work: Path, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids [N, L] and the scaled posterior's mean and standard deviation [N, c, 8, 8], cached in `work`."""
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
        torch.save((_tokenize(captions), torch.cat(means), torch.cat(stds)), path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
    ids, means_all, stds_all = torch.load(path, weights_only=True)
    return ids, means_all, stds_all


def _tokenize(captions: list[str]) -> Tensor:
    tokens = new_tokenizer()(
        captions, padding="max_length", max_length=MAX_LENGTH, truncation=True, return_tensors="pt"
    )
    ids: Tensor = tokens.input_ids
    return ids
