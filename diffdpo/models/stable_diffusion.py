"""Stable Diffusion 1.x (epsilon) and 2.x (v-prediction): one CLIP text encoder, UNet."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from diffdpo.models.pipeline_model import PipelineModel
from diffdpo.models.protocol import Conditioning


class StableDiffusion(PipelineModel):
    """Conditioned on `prompt_embeds` [B, L, d], the text encoder's last hidden states."""

    family = "stable-diffusion"
    pipeline_class = "StableDiffusionPipeline"

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        text_encoder, tokenizer = self._encoder("text_encoder"), self.pipeline.tokenizer
        tokens = tokenizer(
            prompts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        )
        states = text_encoder(tokens.input_ids.to(text_encoder.device)).last_hidden_state
        return {"prompt_embeds": states.float()}

    def conditioning_shapes(self, text_tokens: int) -> dict[str, tuple[int, ...]]:
        config: Any = self.network.config
        return {"prompt_embeds": (text_tokens, config.cross_attention_dim)}

    def _forward(self, network: nn.Module, x_t: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        prompt_embeds = conditioning["prompt_embeds"]
        prediction: Tensor = network(x_t, timesteps, encoder_hidden_states=prompt_embeds, return_dict=False)[0]
        return prediction
