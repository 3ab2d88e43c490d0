"""What every two-tower (CLIP) scorer shares: a scaled cosine, and the same differentiable in the pixels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from scorers.base import BatchScorer
from scorers.errors import ScorerError
from scorers.precision import exact_precision


def check_tokenizer(tokenizer: Any, vocabulary: int, source: str) -> None:
    """Refuse a tokenizer that cannot belong to the model, before it fails or scores nonsense in a run.

    transformers silently makes one of special tokens alone from a folder that lacks the vocabulary.
    """
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ScorerError(f"the tokenizer of {source} has no vocabulary: its tokenizer.json is missing")
    if len(tokenizer) > vocabulary:
        raise ScorerError(f"the tokenizer of {source} has {len(tokenizer)} tokens, the model knows {vocabulary}")


class ClipScorer(BatchScorer):
    """score = factor * cos(image embedding, text embedding), the cosine in float32 for every dtype."""

    factor: float = 1.0

    @abstractmethod
    def embed_images(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [B, 3, S, S] in the model's dtype -> embeddings [B, D], any length."""

    @abstractmethod
    def embed_texts(self, prompts: list[str]) -> Tensor:
        """Prompts -> embeddings [n, D], any length."""

    @abstractmethod
    def fit(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in 0..1 -> the model's input [B, 3, S, S], by differentiable operations."""

    def encode(self, prompts: list[str]) -> Tensor:
        return F.normalize(self.embed_texts(prompts).float(), dim=-1)

    def compare(self, pixels: Tensor, texts: Tensor) -> Tensor:
        images = F.normalize(self.embed_images(pixels.to(self.dtype)).float(), dim=-1)
        return self.factor * (images * texts).sum(-1)

    def reward(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores [B] float32 on the scorer's device, differentiable in `pixels` [B, 3, H, W] (0..1, RGB).

        Text gets no gradient and the weights are frozen. Only the image path differs from `score`: see `fit`.
        """
        if pixels.ndim != 4 or pixels.shape[1] != 3 or len(pixels) != len(prompts):
            given = f"{list(pixels.shape)} and {len(prompts)}"
            raise ScorerError(f"reward takes pixels [B, 3, H, W] and B prompts, not {given}")
        with exact_precision(self.device, self.dtype):
            rows = self.encoded(prompts)
            texts = torch.stack([rows[prompt] for prompt in prompts])  # a copy that autograd accepts
            return self.compare(self.fit(pixels.to(self.device, torch.float32)), texts)
