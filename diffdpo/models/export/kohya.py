"""A LoRA as kohya's sd-scripts write it, which ComfyUI and A1111 read.

A layer's three tensors are `NAME.lora_down.weight`, `NAME.lora_up.weight` and `NAME.alpha`, and NAME is `lora_unet_`
and the layer's path with underscores: in diffusers' naming for Stable Diffusion 1.x and 2.x, in the original one for
SDXL, SD3 and Flux, as in `networks/lora.py`, `lora_sd3.py` and `lora_flux.py` there. Where the original has query, key
and value in one layer, the adapters of the three become one of three times the rank, its `up` block-diagonal, and
alpha grows with the rank, so that alpha / rank stays what it was.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffdpo.models.export.denoisers import denoiser_layout
from diffdpo.models.export.layout import Layout, Place
from diffdpo.models.lora import adapters, base_state, rank_and_alpha

Adapter = tuple[Tensor, Tensor]
"""down [r, in, ...] and up [out, r, ...]."""


def lora_state(network: Any, *, original_names: bool) -> dict[str, Tensor]:
    """The network's LoRA in kohya's form, with its true alpha.

    Args:
        original_names: whether layers are called as in the original checkpoint, not as in diffusers.
    """
    rank, alpha = rank_and_alpha(network)
    rows = {
        name.removesuffix(".weight"): len(tensor)
        for name, tensor in base_state(network).items()
        if name.endswith(".weight") and tensor.ndim > 1
    }
    layout = denoiser_layout(network) if original_names else Place
    return kohya_state(adapters(network), rows, layout, alpha / rank)


def kohya_state(found: dict[str, Adapter], rows: dict[str, int], layout: Layout, scale: float) -> dict[str, Tensor]:
    """Tensors by kohya's names: one adapter for every original layer that holds an adapted one.

    Args:
        found: the adapters by layer.
        rows: the height of every layer's weight, adapted or not.
        layout: from the name of a layer's weight to its place.
        scale: alpha / rank of the adapters.
    """
    state: dict[str, Tensor] = {}
    for layer, (down, up) in _joined(found, rows, layout).items():
        name = "lora_unet_" + layer.replace(".", "_")
        state[f"{name}.lora_down.weight"] = down
        state[f"{name}.lora_up.weight"] = up
        state[f"{name}.alpha"] = torch.tensor(scale * len(down))
    return state


def _joined(found: dict[str, Adapter], rows: dict[str, int], layout: Layout) -> dict[str, Adapter]:
    layers: dict[str, dict[int, str]] = {}
    for layer in rows:
        key, part = layout(f"{layer}.weight")
        layers.setdefault(key.removesuffix(".weight"), {})[part] = layer
    inside = {key: [parts[number] for number in sorted(parts)] for key, parts in layers.items()}
    return {
        key: _one([(rows[layer], found.get(layer)) for layer in parts])
        for key, parts in inside.items()
        if any(layer in found for layer in parts)
    }


def _one(parts: list[tuple[int, Adapter | None]]) -> Adapter:
    """The adapter of stacked layers from theirs; rows of a layer without one are zero."""
    if len(parts) == 1 and parts[0][1] is not None:
        return parts[0][1]
    present = [adapter for _, adapter in parts if adapter is not None]
    ups = [torch.zeros(rows, 0) if adapter is None else adapter[1] for rows, adapter in parts]
    return torch.cat([down for down, _ in present]), torch.block_diag(*ups)  # type: ignore[no-untyped-call]
