"""Flux.1: flow matching over packed latents, CLIP's pooled text and T5's tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from diffdpo.models.lora import JOINT_ATTENTION
from diffdpo.models.pipeline_model import PipelineModel
from diffdpo.models.protocol import Conditioning


class Flux(PipelineModel):
    """Conditioned on `prompt_embeds` [B, L, d] of T5 and on `pooled_prompt_embeds` [B, p] of CLIP.

    Latents stay [B, c, h, w] outside of the network's call; h and w must be even.
    """

    family = "flux"
    pipeline_class = "FluxPipeline"
    denoiser = "transformer"
    text_encoders = ("text_encoder", "text_encoder_2")
    t5_length = 512
    lora_layers = JOINT_ATTENTION
    guided_by_empty_prompt = False

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        device = self._encoder("text_encoder").device
        embeds, pooled, _ = self.pipeline.encode_prompt(
            prompts, device=device, max_sequence_length=self.max_sequence_length
        )
        return {"prompt_embeds": embeds.float(), "pooled_prompt_embeds": pooled.float()}

    def conditioning_shapes(self, text_tokens: int) -> dict[str, tuple[int, ...]]:
        config: Any = self.network.config
        return {
            "prompt_embeds": (self.max_sequence_length, config.joint_attention_dim),
            "pooled_prompt_embeds": (config.pooled_projection_dim,),
        }

    def _forward(self, network: nn.Module, x_t: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        h, w = x_t.shape[-2:]
        prompt_embeds = conditioning["prompt_embeds"]
        prediction: Tensor = network(
            hidden_states=pack(x_t),
            encoder_hidden_states=prompt_embeds,
            pooled_projections=conditioning["pooled_prompt_embeds"],
            # This network multiplies by 1000 itself.
            timestep=timesteps / self.objective.n_timesteps,
            img_ids=image_ids(h // 2, w // 2).to(x_t),
            txt_ids=x_t.new_zeros(prompt_embeds.shape[1], 3),
            guidance=None if self.guidance is None else torch.full((len(x_t),), self.guidance, device=x_t.device),
            return_dict=False,
        )[0]
        return unpack(prediction, h, w)


def pack(latents: Tensor) -> Tensor:
    """[B, c, h, w] -> [B, (h/2)(w/2), 4c]: every 2 x 2 patch becomes a token."""
    return nn.functional.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)


def unpack(tokens: Tensor, h: int, w: int) -> Tensor:
    """The inverse of `pack`."""
    return nn.functional.pixel_shuffle(tokens.transpose(1, 2).reshape(len(tokens), -1, h // 2, w // 2), 2)


def image_ids(rows: int, columns: int) -> Tensor:
    """Where each token lies, [rows * columns, 3] float32: 0, row, column."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], dim=-1).reshape(-1, 3).float()
