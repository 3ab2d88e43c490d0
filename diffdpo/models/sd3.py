"""Stable Diffusion 3 and 3.5: flow matching, two CLIP text encoders and a T5 that may be absent (Esser et al. 2024)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from diffdpo.models.lora import JOINT_ATTENTION
from diffdpo.models.pipeline_model import PipelineModel
from diffdpo.models.protocol import Conditioning


class StableDiffusion3(PipelineModel):
    """Conditioned on `prompt_embeds` [B, L, d], CLIP's and T5's tokens one after the other (zeros in place of an
    absent T5), and on `pooled_prompt_embeds` [B, p1 + p2] of the two CLIPs."""

    family = "sd3"
    pipeline_class = "StableDiffusion3Pipeline"
    denoiser = "transformer"
    text_encoders = ("text_encoder", "text_encoder_2", "text_encoder_3")
    t5_length = 256
    lora_layers = JOINT_ATTENTION

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        device = self._encoder("text_encoder").device
        embeds, _, pooled, _ = self.pipeline.encode_prompt(
            prompts,
            None,
            None,
            device=device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
        )
        return {"prompt_embeds": embeds.float(), "pooled_prompt_embeds": pooled.float()}

    def conditioning_shapes(self, text_tokens: int) -> dict[str, tuple[int, ...]]:
        config: Any = self.network.config
        return {
            "prompt_embeds": (text_tokens + self.max_sequence_length, config.joint_attention_dim),
            "pooled_prompt_embeds": (config.pooled_projection_dim,),
        }

    def _forward(self, network: nn.Module, x_t: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        prediction: Tensor = network(
            x_t,
            encoder_hidden_states=conditioning["prompt_embeds"],
            pooled_projections=conditioning["pooled_prompt_embeds"],
            timestep=timesteps,
            return_dict=False,
        )[0]
        return prediction
