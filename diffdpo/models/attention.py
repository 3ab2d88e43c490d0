"""Which attention kernel to use where the library's own choice is slow."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

SHORT_SEQUENCE = 256
"""Latent pixels up to which attention on a CPU is computed by plain matrix products."""


def attention_kernel(device: str, latent_pixels: int) -> AbstractContextManager[None]:
    """On short sequences a CPU's flash attention takes up to half of the backward pass; plain products do not."""
    if device == "cpu" and latent_pixels <= SHORT_SEQUENCE:
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


def training_kernel(x_t: Tensor, half: bool) -> AbstractContextManager[None]:
    """The same for a step of training on [B, C, h, w] latents: in float32 plain products gain nothing there."""
    return attention_kernel(x_t.device.type, x_t.shape[-2:].numel()) if half else nullcontext()
