"""Stable Diffusion 1.x and 2.x: AutoencoderKL, CLIP text encoder, UNet."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor, nn

from diffdpo.errors import UserError
from diffdpo.models.attention import attention_kernel
from diffdpo.models.lora import adapter_off, add_lora, save_lora
from diffdpo.models.protocol import Conditioning, Predict, trainable
from diffdpo.models.sampling import load_pipeline
from diffdpo.objectives import Diffusion, Objective
from diffdpo.runs import content_hash


class StableDiffusion:
    """One checkpoint, ready for training. Fulfils `ImageModel`.

    Args:
        path: a diffusers folder or a hub name.
        lora_rank: 0 trains the whole UNet.
        lora_alpha: the adapter is scaled by alpha / rank.
        frozen_dtype: dtype of a UNet that only carries a LoRA.
        channels_last: the layout that convolutions are fastest in on a GPU, and on a CPU in bf16 (not in float32).
        seed: of the LoRA's first weights.
    """

    def __init__(
        self,
        path: str,
        *,
        lora_rank: int = 0,
        lora_alpha: float = 0.0,
        device: str | torch.device = "cpu",
        frozen_dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        seed: int = 0,
    ) -> None:
        pipeline = load_pipeline(path, device=str(device))
        if not isinstance(pipeline, StableDiffusionPipeline):
            raise UserError(
                f"model {path!r}: a {type(pipeline).__name__}; this version trains Stable Diffusion 1.x and 2.x"
            )
        self.path = path
        self.pipeline = pipeline
        self.network: nn.Module = pipeline.unet
        self.lora_rank = lora_rank
        scheduler = pipeline.scheduler
        try:
            self.objective: Objective = Diffusion(scheduler.alphas_cumprod, scheduler.config.prediction_type)
        except ValueError as error:
            raise UserError(f"model {path!r}: {error}") from None
        for frozen in (pipeline.vae, pipeline.text_encoder):
            frozen.requires_grad_(False).eval()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network.to(memory_format=self.memory_format)
        if lora_rank:
            if frozen_dtype != torch.float32:
                self.network.to(frozen_dtype)
            torch.manual_seed(seed)
            add_lora(self.network, lora_rank, lora_alpha)
        else:
            self.network.requires_grad_(True)
        # There is no dropout to switch on, and the reference must run the same kernels.
        self.network.eval()

    @torch.no_grad()
    def encode_images(self, images: list[Image.Image]) -> tuple[Tensor, Tensor]:
        vae = self._encoder("vae")
        pixels = torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in images]))
        pixels = pixels.permute(0, 3, 1, 2).to(vae.device, torch.float32) / 127.5 - 1
        posterior = vae.encode(pixels).latent_dist
        scale = vae.config.scaling_factor
        return (posterior.mean * scale).float(), (posterior.std * scale).float()

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        text_encoder, tokenizer = self._encoder("text_encoder"), self.pipeline.tokenizer
        tokens = tokenizer(
            prompts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        )
        states = text_encoder(tokens.input_ids.to(text_encoder.device)).last_hidden_state
        return {"prompt_embeds": states.float()}

    def encoder_identity(self) -> dict[str, Any]:
        folder = Path(self.path)
        if not folder.is_dir():
            return {"family": "stable-diffusion", "model": self.path}
        hashes = {part: content_hash(folder / part) for part in ("vae", "text_encoder", "tokenizer")}
        return {"family": "stable-diffusion", **hashes}

    def predict(self, network: nn.Module, x_t: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        dtype = next(self.network.parameters()).dtype
        with self._attention_kernel(x_t):
            prediction: Tensor = network(
                x_t.to(dtype, memory_format=self.memory_format),
                timesteps,
                encoder_hidden_states=conditioning["prompt_embeds"].to(dtype),
                return_dict=False,
            )[0]
        return prediction

    def reference(self) -> Predict:
        if self.lora_rank:
            return self._predict_with_adapter_off
        frozen = copy.deepcopy(self.network).requires_grad_(False).eval()
        return lambda x_t, timesteps, conditioning: self.predict(frozen, x_t, timesteps, conditioning)

    def forget_encoders(self) -> None:
        self.pipeline.vae = self.pipeline.text_encoder = None

    def export(self, folder: Path, weights: Sequence[Tensor] | None = None) -> Path:
        """A whole pipeline folder for `from_pretrained`, or with a LoRA a folder for `load_lora_weights`."""
        with _weights_of(self.network, weights):
            if self.lora_rank:
                save_lora(self.network, StableDiffusionPipeline, folder)
            else:
                whole = load_pipeline(self.path, own_scheduler=True)
                whole.unet.load_state_dict({key: value.cpu() for key, value in self.network.state_dict().items()})
                whole.save_pretrained(folder)
        return folder

    def _predict_with_adapter_off(self, x_t: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        with adapter_off(self.network):
            return self.predict(self.network, x_t, timesteps, conditioning)

    def _attention_kernel(self, x_t: Tensor) -> AbstractContextManager[None]:
        """Not with gradient checkpointing: its second forward pass would run outside of this choice."""
        if getattr(self.network, "is_gradient_checkpointing", False):
            return nullcontext()
        return attention_kernel(x_t.device.type, x_t.shape[-2:].numel())

    def _encoder(self, name: str) -> Any:
        encoder = getattr(self.pipeline, name)
        if encoder is None:
            raise RuntimeError("the encoders were let go by forget_encoders(); encode before that")
        return encoder


@contextmanager
def _weights_of(network: nn.Module, weights: Sequence[Tensor] | None) -> Iterator[None]:
    """Within, the trainable parameters hold `weights`."""
    if weights is None:
        yield
        return
    parameters = trainable(network)
    kept = [parameter.detach().clone() for parameter in parameters]
    try:
        torch._foreach_copy_([p.data for p in parameters], list(weights))
        yield
    finally:
        torch._foreach_copy_([p.data for p in parameters], kept)
