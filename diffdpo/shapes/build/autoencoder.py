"""The tiny AutoencoderKL: 32 x 32 pixels to 8 x 8 x 8 latents (f = 4).

Eight channels, not four: a cell of 4 x 4 pixels with an edge through it has two colours and a line to tell, and four
numbers would make the cells share that work, which takes far longer to learn.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor

from diffdpo.fit import Schedule, fit, silence_residual_branches
from diffdpo.shapes.build.pictures import careful_or_sloppy, draw_scene, to_tensor
from diffdpo.shapes.checker import check
from diffdpo.shapes.render import render

BATCH = 16
LATENT_CHANNELS = 8
KL_WEIGHT = 5e-5
"""Weight of the mean KL per latent number beside the mean error per colour value."""


def new_autoencoder() -> AutoencoderKL:
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=(16, 48, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=32,
    )
    # Start with a narrow posterior: at the default width its noise drowns the first thousand steps.
    vae.quant_conv.bias.data[LATENT_CHANNELS:] = -6.0
    silence_residual_branches(vae)
    return vae.to(memory_format=torch.channels_last)


def train_autoencoder(work: Path, seed: int, steps: int) -> AutoencoderKL:
    """Train on careful and sloppy scenes alike; sets `scaling_factor` to one over the latents' standard deviation."""
    torch.manual_seed(seed)
    vae = new_autoencoder()

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        pixels = _pictures(seed, step).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(pixels).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        error = decoded.float() - pixels
        # The absolute error alone would be content with the bare background for thousands of steps: it is the median.
        reconstruction = 2 * error.square().mean() + 0.25 * error.abs().mean()
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return reconstruction + KL_WEIGHT * kl, {"L1": error.abs().mean().item(), "KL": kl.item()}

    fit("vae", vae, loss_at, Schedule(steps, learning_rate=2e-3), work, lambda: {"exact": reconstruction_accuracy(vae)})
    with torch.no_grad():
        latents = torch.cat([vae.encode(_pictures(seed, -1 - i)).latent_dist.sample() for i in range(32)])
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    return vae


@torch.no_grad()
def reconstruction_accuracy(vae: AutoencoderKL, n: int = 500, seed: int = 10**6) -> float:
    """Share of rendered scenes, both sides of the split, whose reconstruction passes the exact checker."""
    rng = np.random.default_rng(seed)
    scenes = [draw_scene(rng, held_out=i % 2 == 0) for i in range(n)]
    passed = 0
    for start in range(0, n, 100):
        part = scenes[start : start + 100]
        decoded = vae.decode(vae.encode(to_tensor([render(scene, rng) for scene in part])).latent_dist.mode()).sample
        images = VaeImageProcessor().postprocess(decoded, output_type="pil")
        passed += sum(check(image, scene).exact for image, scene in zip(images, part, strict=True))
    return passed / n


def _pictures(seed: int, step: int) -> Tensor:
    rng = np.random.default_rng([seed, 1, step + 10**6])
    return to_tensor([careful_or_sloppy(draw_scene(rng), rng, sloppy_share=0.3) for _ in range(BATCH)])
