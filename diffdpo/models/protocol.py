"""What a trainer needs of an image model. A new family is one file that fulfils this."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from diffdpo.models.export.form import AS_TRAINED, Form
from diffdpo.objectives import Objective

Conditioning = dict[str, Tensor]
"""What the network is told beside x_t and t, by the family's own names; every tensor is [B, ...]."""

Predict = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""x_t [B, c, h, w], timesteps [B], conditioning -> prediction [B, c, h, w]."""


class ImageModel(Protocol):
    """A denoiser with the encoders around it."""

    pipeline_class: ClassVar[str]
    """The diffusers class that it is opened as."""
    network: nn.Module
    """What is trained: the UNet or transformer, with its LoRA if it has one."""

    @property
    def objective(self) -> Objective: ...

    @property
    def side_multiple(self) -> int:
        """Pixels that the sides of an image are multiples of where all levels of the network halve evenly."""
        ...

    def check_size(self, height: int, width: int) -> None:
        """Raise UserError if images of that size, in pixels, cannot be trained on without losing an edge."""
        ...

    def encode_images(self, images: list[Image.Image]) -> tuple[Tensor, Tensor]:
        """Equally sized images -> mean and deviation of the scaled latents' posterior, [B, c, h, w] float32."""
        ...

    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """Prompts -> their conditioning, [B, ...] float32."""
        ...

    def encoder_identity(self) -> dict[str, Any]:
        """All that decides what the two functions above return, in JSON values: the key of a cache of theirs."""
        ...

    def add_sizes(self, conditioning: Conditioning, sizes: Tensor, latent_size: tuple[int, int]) -> Conditioning:
        """Conditioning that also tells each image's size, where the family is told it; else as given.

        Args:
            sizes: [B, 4] int64 pixels: height and width as stored, top and left of the crop.
            latent_size: h and w of the latents that are trained on.
        """
        ...

    def predict(self, network: nn.Module, x_t: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """Run a network of this family: `self.network`, a wrapped one or a reference."""
        ...

    def reference(self) -> Predict:
        """The model as it was before training: the LoRA switched off, or a frozen copy. Call it before training."""
        ...

    def forget_encoders(self) -> None:
        """Free the encoders' memory once everything is encoded."""
        ...

    def export(self, folder: Path, weights: Sequence[Tensor] | None = None, form: Form = AS_TRAINED) -> Path:
        """Write what a user loads, with `weights` in place of the trained ones if given.

        Raises:
            UserError: the model cannot be written in that form.
        """
        ...


def trainable(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that training moves, in a fixed order."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


@contextmanager
def weights_of(network: nn.Module, weights: Sequence[Tensor] | None) -> Iterator[None]:
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
