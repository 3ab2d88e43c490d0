"""LoRA on a network of diffusers or transformers: put on, switched off for the reference, written for them to read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffdpo.errors import UserError

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""A UNet's layers that get an adapter: all attention projections, self and cross."""

JOINT_ATTENTION = (*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
"""A joint transformer's: those of the text's stream too."""


def add_lora(
    network: Any, rank: int, alpha: float, layers: Sequence[str] | str = ATTENTION, *, task_type: str | None = None
) -> None:
    """Freeze the network and put a fresh adapter on its attention. At first it changes nothing: B is zero.

    The adapter's weights are float32 whatever the network's dtype, so that small steps are not rounded away.

    Args:
        layers: names of layers, or `all-linear` for all but the output head.
        task_type: as peft knows it, for language models.
    """
    from peft import LoraConfig

    network.requires_grad_(False)
    names = layers if isinstance(layers, str) else list(layers)
    network.add_adapter(
        LoraConfig(
            r=rank,
            lora_alpha=alpha,
            target_modules=names,
            init_lora_weights="gaussian",
            task_type=task_type,
            fan_in_fan_out=any(
                type(layer).__name__ == "Conv1D" for layer in network.modules()
            ),  # GPT-2's linear layers
        )
    )
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


def save_lora(
    network: Any, pipeline_class: Any, folder: Path, denoiser: str = "unet", dtype: torch.dtype | None = None
) -> None:
    """Write `pytorch_lora_weights.safetensors`, with rank and the true alpha in its metadata; in `dtype` if given."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    layers = {name: tensor.to(dtype) for name, tensor in get_peft_model_state_dict(network).items()}
    if denoiser == "unet":
        layers = convert_state_dict_to_diffusers(layers)
    config = network.peft_config["default"].to_dict()
    named = {f"{denoiser}_lora_layers": layers, f"{denoiser}_lora_adapter_metadata": config}
    pipeline_class.save_lora_weights(folder, **named)


def save_text_lora(network: Any, folder: Path, base: str) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json`, for `PeftModel.from_pretrained` over `base`."""
    for config in network.peft_config.values():
        config.base_model_name_or_path = base
    network.save_pretrained(folder)


def adapters(network: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """Each adapted layer's name and its (down, up): [r, in, ...] and [out, r, ...] float32."""
    from peft.utils import get_peft_model_state_dict

    state = get_peft_model_state_dict(network)
    down = "lora_A.weight"
    return {
        key.removesuffix(f".{down}"): (state[key], state[key.replace(down, "lora_B.weight")])
        for key in state
        if key.endswith(down)
    }


def rank_and_alpha(network: Any) -> tuple[int, float]:
    config = network.peft_config["default"]
    return config.r, float(config.lora_alpha)


def base_state(network: Any) -> dict[str, Tensor]:
    """The network's own tensors under their own names, as they were before it had an adapter."""
    return {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in network.state_dict().items()
        if ".lora_" not in name
    }


@torch.no_grad()
def merge_text_lora(network: Any, folder: str) -> None:
    """Add an adapter, as `save_text_lora` writes it, into the weights of a language model.

    Raises:
        UserError: none is there, or it is not one of this model.
    """
    from peft import PeftModel

    try:
        PeftModel.from_pretrained(network, folder).merge_and_unload()
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise UserError(f"{folder}: no LoRA of this language model ({' '.join(str(error).split())[:160]})") from None


@torch.no_grad()
def merged_state(network: Any) -> dict[str, Tensor]:
    """The network's tensors with the adapter added, W + alpha / r * up @ down (Hu et al. 2021), computed in float32.

    Returns:
        Adapted weights float32, all others as they are. Without an adapter they are all as they are.
    """
    from peft.tuners.lora import LoraLayer

    state = base_state(network)
    for name, layer in network.named_modules():
        if isinstance(layer, LoraLayer):
            state[f"{name}.weight"] = state[f"{name}.weight"].float() + layer.get_delta_weight("default").float()
    return state
