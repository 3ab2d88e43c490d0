"""How many numbers an image and a caption become once encoded, from an architecture alone."""

from __future__ import annotations

import math

from diffdpo.models.memory.architectures import Architecture
from diffdpo.models.memory.blank import blank_model


def numbers_of_image(architecture: Architecture, size: tuple[int, int]) -> int:
    """Mean and deviation of the latents.

    Args:
        size: height and width in pixels.
    """
    h, w = (edge // architecture.pixels_per_latent for edge in size)
    return 2 * architecture.latent_channels * h * w


def numbers_of_caption(architecture: Architecture, path: str = "", max_sequence_length: int | None = None) -> int:
    """Its conditioning.

    Raises:
        UserError: the architecture's family is not here, or has no use for `max_sequence_length`.
    """
    model = blank_model(architecture, path, max_sequence_length=max_sequence_length)
    return sum(math.prod(shape) for shape in model.conditioning_shapes(architecture.text_tokens).values())
