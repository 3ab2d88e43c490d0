"""The LoRA of these tests, and what is asked of a model that has it."""

from __future__ import annotations

from typing import Any

import torch

RANK, ALPHA = 3, 5.0
"""Unequal, so that a lost alpha shows."""


@torch.no_grad()
def predict(model: Any) -> torch.Tensor:
    """What a model's network answers to fixed inputs."""
    torch.manual_seed(3)
    x_t, timesteps = torch.randn(2, 4, 8, 8), torch.tensor([3, 700])
    sizes = torch.tensor([[20, 30, 0, 4], [64, 16, 24, 0]])
    given = model.add_sizes(model.encode_prompts(["a cat", "an old dog"]), sizes, (8, 8))
    answer: torch.Tensor = model.predict(model.network, x_t, timesteps, given)
    return answer
