"""SDXL: two CLIP text encoders, pooled text and image sizes as added conditions, UNet (Podell et al. 2023)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from diffdpo.models.pipeline_model import PipelineModel
from diffdpo.models.protocol import Conditioning


class SDXL(PipelineModel):
    """Conditioned on `prompt_embeds` [B, L, d1 + d2], the penultimate hidden states of both encoders; on
    `pooled_prompt_embeds` [B, p] of the second; and on `time_ids` [B, 6] int64 in pixels: original height and width,
    top and left of the crop, trained height and width (section 2.2 of the paper).

    The autoencoder runs in float32 always: its published weights overflow in float16.
    """

    family = "sdxl"
    pipeline_class = "StableDiffusionXLPipeline"
    text_encoders = ("text_encoder", "text_encoder_2")

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        device = self._encoder("text_encoder_2").device
        embeds, _, pooled, _ = self.pipeline.encode_prompt(prompts, device=device, do_classifier_free_guidance=False)
        if self.pipeline.config.force_zeros_for_empty_prompt:
            empty = torch.tensor([not prompt for prompt in prompts], device=device)
            embeds = embeds.masked_fill(empty[:, None, None], 0)
            pooled = pooled.masked_fill(empty[:, None], 0)
        return {"prompt_embeds": embeds.float(), "pooled_prompt_embeds": pooled.float()}

    def conditioning_shapes(self, text_tokens: int) -> dict[str, tuple[int, ...]]:
        config: Any = self.network.config
        pooled: int = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim  # six time ids
        return {"prompt_embeds": (text_tokens, config.cross_attention_dim), "pooled_prompt_embeds": (pooled,)}

    def encoder_identity(self) -> dict[str, Any]:
        zeros = bool(self.pipeline.config.force_zeros_for_empty_prompt)
        return {**super().encoder_identity(), "force_zeros_for_empty_prompt": zeros}

    def add_sizes(self, conditioning: Conditioning, sizes: Tensor, latent_size: tuple[int, int]) -> Conditioning:
        # Filled on the device: a tensor made of a list would be copied there, and the copy waited for.
        edges = (edge * self.pipeline.vae_scale_factor for edge in latent_size)
        trained = torch.stack([torch.full_like(sizes[:, 0], edge) for edge in edges], dim=1)
        return {**conditioning, "time_ids": torch.cat([sizes, trained], dim=1)}

    def _forward(self, network: nn.Module, x_t: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        added = {"text_embeds": conditioning["pooled_prompt_embeds"], "time_ids": conditioning["time_ids"].float()}
        prediction: Tensor = network(
            x_t,
            timesteps,
            encoder_hidden_states=conditioning["prompt_embeds"],
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return prediction
