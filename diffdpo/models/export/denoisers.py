"""The trained networks, the UNet or the transformer, as the original checkpoints have them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffdpo.errors import UserError
from diffdpo.models.export.layout import Layout, stacked
from diffdpo.models.export.transformers import FLUX, SD3
from diffdpo.models.export.unet import unet_layout

State = dict[str, Tensor]
_FINAL = "final_layer.adaLN_modulation.1."


def unet_state(unet: Any) -> State:
    """A UNet's tensors under their original names."""
    return stacked(unet.state_dict(), denoiser_layout(unet))


def sd3_state(tensors: State) -> State:
    """A transformer's own tensors -> those of the original."""
    layers = {name: tensor for name, tensor in tensors.items() if name != "pos_embed.pos_embed"}
    state = stacked(layers, SD3)
    last = max(int(key.split(".")[1]) for key in state if key.startswith("joint_blocks."))
    _swap_halves(state, (_FINAL, f"joint_blocks.{last}.context_block.adaLN_modulation.1."))
    return {"pos_embed": tensors["pos_embed.pos_embed"], **state}


def flux_state(tensors: State) -> State:
    """A transformer's own tensors -> those of the original."""
    state = stacked(tensors, FLUX)
    _swap_halves(state, (_FINAL,))
    return state


def denoiser_layout(network: Any) -> Layout:
    """Where the tensors of a network of a known family go; without the prefix."""
    kind = type(network).__name__
    if kind == "UNet2DConditionModel":
        per_block = network.config.layers_per_block
        if not isinstance(per_block, int):
            raise UserError("its UNet has blocks of several lengths, which the original layout has not")
        return unet_layout(network.state_dict(), per_block)
    return SD3 if kind == "SD3Transformer2DModel" else FLUX


def is_second(unet: Any) -> bool:
    """Whether a UNet for one text encoder is of Stable Diffusion 2.x, not 1.x: its attention has linear projections."""
    return bool(unet.config.use_linear_projection)


def _swap_halves(state: State, prefixes: tuple[str, ...]) -> None:
    """Where diffusers has scale before shift, the original has shift before scale."""
    for key, tensor in state.items():
        if key.startswith(prefixes):
            state[key] = torch.cat(tensor.chunk(2)[::-1])
