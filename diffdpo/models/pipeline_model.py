"""What all families of image models share: one diffusers pipeline, of which the denoiser is trained.

Knows encoding of images, the objective, the reference and export. A family's own file says how prompts are encoded and
how its network is called.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from diffdpo.errors import UserError
from diffdpo.models.attention import attention_kernel
from diffdpo.models.compiled import compile_blocks
from diffdpo.models.export.form import AS_TRAINED, Form
from diffdpo.models.export.write import write
from diffdpo.models.lora import ATTENTION, adapter_off, add_lora
from diffdpo.models.protocol import Conditioning, Predict, weights_of
from diffdpo.objectives import Diffusion, FlowMatching, Objective
from diffdpo.runs import content_hash

GUIDANCE = 1.0
"""What a guidance-distilled network is told where nothing else is asked for: the value that diffusers' commands for
training Flux give (examples/dreambooth/README_flux.md)."""


class PipelineModel:
    """One checkpoint, ready for training. Fulfils `ImageModel`, less the two methods that a family writes.

    Args:
        pipeline: on the CPU or on `device`; its encoders are kept in their dtype, which is float32 for exact work
            (T5's is the checkpoint's own).
        path: where it came from; the full export is made from it again.
        lora_rank: 0 trains the whole network.
        lora_alpha: the adapter is scaled by alpha / rank.
        frozen_dtype: dtype of a network that only carries a LoRA.
        channels_last: the layout that convolutions are fastest in on a GPU, and on a CPU in bf16 (not in float32).
        seed: of the LoRA's first weights.
        guidance: what a guidance-distilled network is told in every call; None is `GUIDANCE`.
        max_sequence_length: tokens that T5 reads of a prompt; None is `t5_length`.

    Raises:
        UserError: the checkpoint's scheduler is for another objective than epsilon, v-prediction or flow matching, or
            the checkpoint has no use for `guidance` or `max_sequence_length`.
    """

    family: ClassVar[str]
    """A name for the cache of encoded triplets."""
    pipeline_class: ClassVar[str]
    """The diffusers class that a checkpoint of this family opens as."""
    denoiser: ClassVar[str] = "unet"
    """The trained part of the pipeline."""
    text_encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    t5_length: ClassVar[int] = 0
    """Tokens that T5 reads where nothing else is asked for, as in the diffusers pipeline; 0 of a family without it."""
    lora_layers: ClassVar[tuple[str, ...]] = ATTENTION
    guided_by_empty_prompt: ClassVar[bool] = True
    """Whether images are drawn with classifier-free guidance."""

    def __init__(
        self,
        pipeline: Any,
        path: str,
        *,
        lora_rank: int = 0,
        lora_alpha: float = 0.0,
        device: str | torch.device = "cpu",
        frozen_dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        seed: int = 0,
        guidance: float | None = None,
        max_sequence_length: int | None = None,
    ) -> None:
        self.path = path
        self._backend: str | None = None
        self.pipeline = pipeline
        self.network: nn.Module = getattr(pipeline, self.denoiser)
        self.lora_rank = lora_rank
        self.objective: Objective = _objective(pipeline.scheduler, path, device)
        self.guidance = self._guidance(guidance)
        self.max_sequence_length = self._sequence_length(max_sequence_length)
        for name in self._encoders():
            getattr(pipeline, name).requires_grad_(False).eval()
        # The layout is for convolutions: a transformer has but one.
        channels_last = channels_last and self.denoiser == "unet"
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        if lora_rank and frozen_dtype != torch.float32:
            self.network.to(frozen_dtype)
        pipeline.to(device)
        self.network.to(memory_format=self.memory_format)
        if lora_rank:
            torch.manual_seed(seed)
            add_lora(self.network, lora_rank, lora_alpha, self.lora_layers)
        else:
            self.network.requires_grad_(True)
        # There is no dropout to switch on, and the reference must run the same kernels.
        self.network.eval()

    @property
    def side_multiple(self) -> int:
        """The autoencoder's factor, times what the network halves: a UNet once per level but the last, a transformer
        once, into patches of 2 x 2."""
        halvings = len(self.pipeline.unet.config.block_out_channels) - 1 if self.denoiser == "unet" else 1
        return int(self.pipeline.vae_scale_factor * 2**halvings)

    def check_size(self, height: int, width: int) -> None:
        multiple = int(self.pipeline.vae_scale_factor) * (1 if self.denoiser == "unet" else 2)
        if not min(height, width) // multiple or height % multiple or width % multiple:
            near = " x ".join(str(max(1, round(side / multiple)) * multiple) for side in (height, width))
            raise UserError(
                f"data.size: {height} x {width} pixels do not fit {self.path!r}, which takes multiples of {multiple};"
                f" the nearest is {near}"
            )

    @torch.no_grad()
    def encode_images(self, images: list[Image.Image]) -> tuple[Tensor, Tensor]:
        vae = self._encoder("vae")
        pixels = torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in images]))
        pixels = pixels.permute(0, 3, 1, 2).to(vae.device, torch.float32) / 127.5 - 1
        posterior = vae.encode(pixels).latent_dist
        shift, scale = getattr(vae.config, "shift_factor", None) or 0.0, vae.config.scaling_factor
        return ((posterior.mean - shift) * scale).float(), (posterior.std * scale).float()

    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        raise NotImplementedError

    def conditioning_shapes(self, text_tokens: int) -> dict[str, tuple[int, ...]]:
        """The shapes of what `encode_prompts` returns for one prompt, by the network's config alone.

        Args:
            text_tokens: of CLIP's text encoder.
        """
        raise NotImplementedError

    def encoder_identity(self) -> dict[str, Any]:
        identity: dict[str, Any] = {"family": self.family, **self._encoder_contents()}
        if self.t5_length:
            identity["max_sequence_length"] = self.max_sequence_length
        return identity

    def add_sizes(self, conditioning: Conditioning, sizes: Tensor, latent_size: tuple[int, int]) -> Conditioning:
        return conditioning

    def predict(self, network: nn.Module, x_t: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        dtype = next(self.network.parameters()).dtype
        cast = {name: given.to(dtype) if given.is_floating_point() else given for name, given in conditioning.items()}
        with self._attention_kernel(x_t):
            return self._forward(network, x_t.to(dtype, memory_format=self.memory_format), timesteps, cast)

    def reference(self) -> Predict:
        if self.lora_rank:
            return self._predict_with_adapter_off
        frozen = copy.deepcopy(self.network).requires_grad_(False).eval()
        if self._backend:
            compile_blocks(frozen, self._backend)  # which copying undoes; the reference must run the same kernels
        return lambda x_t, timesteps, conditioning: self.predict(frozen, x_t, timesteps, conditioning)

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Let torch compile the network's repeated blocks, and those of its reference. Call it before `reference`.

        Args:
            backend: torch.compile's.
        """
        compile_blocks(self.network, backend)
        self._backend = backend

    def forget_encoders(self) -> None:
        for name in self._encoders():
            setattr(self.pipeline, name, None)

    def export(self, folder: Path, weights: Sequence[Tensor] | None = None, form: Form = AS_TRAINED) -> Path:
        """`AS_TRAINED`: a pipeline folder for `from_pretrained`, or with a LoRA a folder for `load_lora_weights`."""
        with weights_of(self.network, weights):
            write(self, folder, form)
        return folder

    def _encoder_contents(self) -> dict[str, str]:
        place = Path(self.path)
        if not place.exists():
            return {"model": self.path}
        if place.is_file():
            return {"model": content_hash(place)}
        tokenizers = (name.replace("text_encoder", "tokenizer") for name in self.text_encoders)
        parts = [part for part in ("vae", *self.text_encoders, *tokenizers) if (place / part).is_dir()]
        return {part: content_hash(place / part) for part in parts}

    def _guidance(self, asked: float | None) -> float | None:
        """What the network is told; None where it takes no guidance."""
        if getattr(self.network.config, "guidance_embeds", False):
            return GUIDANCE if asked is None else asked
        if asked is not None:
            raise UserError(f"model.guidance: {self.path!r} is told no guidance while it is trained; leave the key out")
        return None

    def _sequence_length(self, asked: int | None) -> int:
        if asked is not None and not self.t5_length:
            raise UserError(f"model.max_sequence_length: {self.path!r} has no T5 to read so far; leave the key out")
        return asked or self.t5_length

    def _forward(self, network: nn.Module, x_t: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """Call the network; x_t and the conditioning are in its dtype already."""
        raise NotImplementedError

    def _predict_with_adapter_off(self, x_t: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        with adapter_off(self.network):
            return self.predict(self.network, x_t, timesteps, conditioning)

    def _attention_kernel(self, x_t: Tensor) -> AbstractContextManager[None]:
        """Not with gradient checkpointing: its second forward pass would run outside of this choice."""
        if getattr(self.network, "is_gradient_checkpointing", False):
            return nullcontext()
        return attention_kernel(x_t.device.type, x_t.shape[-2:].numel())

    def _encoders(self) -> list[str]:
        """Those that this checkpoint has: SD3 may come without its T5."""
        return [name for name in ("vae", *self.text_encoders) if getattr(self.pipeline, name) is not None]

    def _encoder(self, name: str) -> Any:
        encoder = getattr(self.pipeline, name)
        if encoder is None:
            raise RuntimeError("the encoders were let go by forget_encoders(); encode before that")
        return encoder


def _objective(scheduler: Any, path: str, device: str | torch.device) -> Objective:
    """What the checkpoint's scheduler says that the network predicts; its numbers on `device`."""
    if hasattr(scheduler, "alphas_cumprod"):
        try:
            return Diffusion(scheduler.alphas_cumprod.to(device), scheduler.config.prediction_type)
        except ValueError as error:
            raise UserError(f"model {path!r}: {error}") from None
    if type(scheduler).__name__.startswith("FlowMatch"):
        return FlowMatching(scheduler.config.num_train_timesteps)
    name = type(scheduler).__name__
    raise UserError(
        f"model {path!r}: its scheduler is a {name}; epsilon, v-prediction and flow matching can be trained"
    )
