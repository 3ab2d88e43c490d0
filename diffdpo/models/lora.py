"""LoRA on a diffusers network: put on, switched off for the reference, written so that diffusers reads it back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""A UNet's layers that get an adapter: all attention projections, self and cross."""

JOINT_ATTENTION = (*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
"""A joint transformer's: those of the text's stream too."""


def add_lora(network: Any, rank: int, alpha: float, layers: Sequence[str] = ATTENTION) -> None:
    """Freeze the network and put a fresh adapter on its attention. At first it changes nothing: B is zero.

    The adapter's weights are float32 whatever the network's dtype, so that small steps are not rounded away.
    """
    from peft import LoraConfig

    network.requires_grad_(False)
    network.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(layers), init_lora_weights="gaussian"))
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)


@contextmanager
def adapter_off(network: Any) -> Iterator[None]:
    """Within, the network computes as if it had no adapter."""
    network.disable_adapters()
    try:
        yield
    finally:
        network.enable_adapters()


def save_lora(network: Any, pipeline_class: Any, folder: Path, denoiser: str = "unet") -> None:
    """Write `pytorch_lora_weights.safetensors`, with rank and the true alpha in its metadata."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    layers = get_peft_model_state_dict(network)
    if denoiser == "unet":
        layers = convert_state_dict_to_diffusers(layers)
    config = network.peft_config["default"].to_dict()
    named = {f"{denoiser}_lora_layers": layers, f"{denoiser}_lora_adapter_metadata": config}
    pipeline_class.save_lora_weights(folder, **named)
