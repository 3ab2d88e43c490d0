"""A scorer's image encoder by itself: what it reads in an image, before any prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from scorers.base import Scorer
from scorers.batching import in_parts
from scorers.clip import ClipScorer
from scorers.compiled import plain_compile_errors
from scorers.errors import ScorerError
from scorers.precision import exact_precision
from scorers.shared import BackboneScorer


def embed(scorer: Scorer, images: Sequence[Image.Image]) -> Tensor:
    """Embeddings of length 1 of images, [N, D] float32 on the CPU.

    Raises:
        ScorerError: the scorer is not made of a CLIP, or an image cannot be read.
    """
    if not isinstance(scorer, ClipScorer | BackboneScorer):
        raise ScorerError(f"{scorer.name} has no image encoder of its own: take one made of a CLIP, say clipscore")
    found: list[Tensor] = []
    for _, pixels in scorer._prepared(images, scorer._batch.size):

        def features(part: slice, pixels: Tensor = pixels) -> Tensor:
            with exact_precision(scorer.device, scorer.dtype), torch.inference_mode(), plain_compile_errors():
                return scorer.features(pixels[part].to(scorer.device)).float().cpu()

        found += in_parts(features, len(pixels), scorer._batch)
    return torch.cat(found) if found else torch.zeros(0, 0)
