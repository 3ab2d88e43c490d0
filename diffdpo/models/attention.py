"""Which attention kernel to use where the library's own choice is slow."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch.nn.attention import SDPBackend, sdpa_kernel

SHORT_SEQUENCE = 256
"""Latent pixels up to which attention on a CPU is computed by plain matrix products."""


def attention_kernel(device: str, latent_pixels: int) -> AbstractContextManager[None]:
    """On short sequences a CPU's flash attention takes up to half of a backward pass in half precision.

    In float32 it is now a little quicker than plain products, now slower, but rounds by the batch: four batches of one
    are off one of four by more than beta lets pass.
    """
    if device == "cpu" and latent_pixels <= SHORT_SEQUENCE:
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()
