"""Dropout as text recipes want it: none, or on what every block adds to the residual stream."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

BLOCK_PARTS = ("self_attn", "attn", "attention", "self_attention", "mlp", "feed_forward")
"""What a decoder layer calls the parts whose outputs it adds to its input."""


def no_dropout(config: Any) -> None:
    """Switch off every dropout that a model's config knows, by its many names."""
    for name, value in vars(config).items():
        if isinstance(value, int | float) and (name.endswith("pdrop") or "dropout" in name):
            setattr(config, name, 0.0)


def add_residual_dropout(network: nn.Module, rate: float) -> None:
    """Dropout on the output of every attention and feed-forward part (Ouyang et al. 2022, appendix C.1: 0.2), which
    many families have no setting for. Active in training mode only.

    Raises:
        ValueError: no such part in the network.
    """

    def drop(module: nn.Module, _: Any, output: Any) -> Any:
        if not module.training:
            return output
        if isinstance(output, Tensor):
            return F.dropout(output, rate)
        return (F.dropout(output[0], rate), *output[1:])

    parts = [part for name, part in network.named_modules() if name.rpartition(".")[2] in BLOCK_PARTS]
    if not parts:
        raise ValueError(f"no attention or feed-forward part found in a {type(network).__name__}")
    for part in parts:
        part.register_forward_hook(drop)
