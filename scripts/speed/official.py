"""The reference algorithm: what the authors' training script computes in a step, written anew from its description.

Images are encoded in every step, the prompts too; a second frozen UNet is the reference; gradients are checkpointed;
loss and accuracy are fetched from the device after every step; the optimiser is AdamW as torch takes it without being
asked for a faster one (Wallace et al. 2023; their repository's `train.py`). Its dataloader is not in it: pixels are
ready, in pinned memory for a GPU. It is given the draws of ours, which both ways make within the step, so that they
compute the same numbers. Its encoders stay in float32, under autocast where there is one; the authors hold them in half
precision, which takes 0.4 GB less for SD1.5.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffdpo.models.memory.footprint import HALVES
from diffdpo.objectives import Draws, draw
from diffdpo.training.optimization import make_optimizer, parameter_groups
from speed.workload import Bench


class Official:
    """One `step` is a micro-step, and an optimiser step too unless the workload says otherwise."""

    name = "reference algorithm"

    def __init__(self, bench: Bench) -> None:
        self.bench, self.workload, self.model = bench, bench.workload, bench.model
        self.unet: Any = self.model.network
        self.device = torch.device(self.workload.device)
        self.weight_dtype = HALVES.get(self.workload.precision, torch.float32)

    def open(self) -> None:
        from diffusers import DDPMScheduler

        self.unet.enable_gradient_checkpointing()
        self.unet.to(memory_format=torch.contiguous_format)
        self.noise_scheduler = DDPMScheduler.from_config(self.model.pipeline.scheduler.config)
        self.ref_unet = self.unet if self.workload.one_copy else self._frozen()
        self.pixels = self._pixels()
        self.shape = tuple(self.bench.cache.batch([0]).mean_w.shape[1:])
        self.trained = [p for p in self.unet.parameters() if p.requires_grad]
        self.optimizer = self._optimizer()

    def close(self) -> None:
        self.unet.disable_gradient_checkpointing()
        for parameter in self.trained:
            parameter.grad = None
        del self.ref_unet, self.optimizer, self.pixels

    def step(self, number: int) -> float:
        examples = self.bench.order.at(number)
        rows = [index for index, _ in examples]
        pixels, draws = self.pixels[rows].transpose(0, 1).flatten(0, 1), self.draws(examples)
        with self._autocast():
            loss, accuracy = self.loss(pixels, draws, rows)
        torch.autograd.backward(loss)
        told = loss.item(), accuracy.item()
        if self.workload.update:
            nn.utils.clip_grad_norm_(self.trained, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return told[0]

    def loss(self, pixels: Tensor, draws: Draws, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        timesteps = draws.timesteps.to(self.device).repeat(2)
        noise = draws.noise.to(self.device).repeat(2, 1, 1, 1)
        with torch.no_grad():
            posterior = torch.cat([draws.posterior_w, draws.posterior_l]).to(self.device)
            latents = self.encode(pixels, posterior)
            noisy = self.noise_scheduler.add_noise(latents, noise, timesteps)
            conditioning = self.conditioning(rows, (latents.shape[-2], latents.shape[-1]))
        model_losses = self.errors(self.unet, noisy, timesteps, conditioning, noise)
        with torch.no_grad():
            ref_losses = self.errors(self.ref_unet, noisy, timesteps, conditioning, noise)
        model_diff = model_losses[0] - model_losses[1]
        ref_diff = ref_losses[0] - ref_losses[1]
        inside = -0.5 * self.workload.beta * (model_diff - ref_diff)
        return -F.logsigmoid(inside).mean(), (inside > 0).float().mean()

    def encode(self, pixels: Tensor, posterior_noise: Tensor) -> Tensor:
        vae: Any = self.model.pipeline.vae
        posterior = vae.encode(pixels.to(self.device, non_blocking=True)).latent_dist
        latents: Tensor = ((posterior.mean + posterior.std * posterior_noise) * vae.config.scaling_factor).float()
        return latents

    def conditioning(self, rows: Sequence[int], latent_size: tuple[int, int]) -> dict[str, Tensor]:
        captions = [self.bench.store.captions[row] for row in rows]
        own = self.model.encode_prompts(captions)
        doubled = {name: torch.cat([given, given]) for name, given in own.items()}
        edge = self.workload.pixels
        sizes = torch.tensor([[edge, edge, 0, 0]] * 2 * len(rows), device=self.device)
        return self.model.add_sizes(doubled, sizes, latent_size)

    def errors(
        self, unet: nn.Module, noisy: Tensor, timesteps: Tensor, conditioning: dict[str, Tensor], target: Tensor
    ) -> tuple[Tensor, Tensor]:
        own = next(self.unet.parameters()).dtype
        cast = {name: given.to(own) if given.is_floating_point() else given for name, given in conditioning.items()}
        prediction = self.model._forward(unet, noisy.to(own), timesteps, cast)
        precise = torch.promote_types(prediction.dtype, torch.float32)
        error = F.mse_loss(prediction.to(precise), target.to(precise), reduction="none").mean((1, 2, 3))
        winners, losers = error.chunk(2)
        return winners, losers

    def _pixels(self) -> Tensor:
        """Of every pair the winner and the loser, [n, 2, 3, H, W] float32 in [-1, 1], on the CPU."""
        pixels = torch.from_numpy(self.bench.images).permute(0, 1, 4, 2, 3).float() / 127.5 - 1
        return pixels.pin_memory() if self.device.type == "cuda" else pixels

    def draws(self, examples: Sequence[tuple[int, int]]) -> Draws:
        ids = [self.bench.cache.pair_ids[index] for index, _ in examples]
        n_timesteps = self.model.objective.n_timesteps
        return draw(self.workload.seed, ids, [epoch for _, epoch in examples], self.shape, n_timesteps)  # type: ignore[arg-type]

    def _frozen(self) -> nn.Module:
        frozen: Any = copy.deepcopy(self.unet).requires_grad_(False).eval()
        if self.workload.lora_rank:
            frozen.unload_lora()
        frozen.disable_gradient_checkpointing()
        on_gpu = self.device.type == "cuda"
        return frozen.to(self.weight_dtype) if on_gpu else frozen  # type: ignore[no-any-return]

    def _optimizer(self) -> torch.optim.Optimizer:
        config = self.workload.config().training
        if config.optimizer == "adamw":
            return torch.optim.AdamW(self.trained, lr=config.learning_rate, weight_decay=config.weight_decay)
        return make_optimizer(config, parameter_groups(self.trained, [], config.weight_decay))

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.weight_dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.weight_dtype)
