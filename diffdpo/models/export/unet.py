"""Names of a UNet and of an autoencoder in the layout of the original latent diffusion (Rombach et al. 2022)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from diffdpo.models.export.layout import Layout, Place, no_place

_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ENDS = (
    "encoder.conv_in",
    "encoder.conv_out",
    "decoder.conv_in",
    "decoder.conv_out",
    "quant_conv",
    "post_quant_conv",
)
_VAE_RESNET = {**{name: name for name in ("norm1", "conv1", "norm2", "conv2")}, "conv_shortcut": "nin_shortcut"}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_BLOCK = re.compile(
    r"(?:(encoder|decoder)\.)?(down|mid|up)_blocks?(?:\.(\d+))?\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)"
)


def unet_layout(names: Iterable[str], per_block: int) -> Layout:
    """The original UNet has one list of blocks for the way down and one for the way up; a resnet, the attention after
    it and the change of size after that are the entries of one block.

    Args:
        names: of all parameters.
        per_block: the config's `layers_per_block`.
    """
    attended = {found[1] for name in names if (found := re.match(r"up_blocks\.(\d+)\.attentions", name))}

    def layout(name: str) -> Place:
        layer, _, kind = name.rpartition(".")
        if layer in _UNET_ENDS:
            return Place(f"{_UNET_ENDS[layer]}.{kind}")
        found = _BLOCK.fullmatch(layer)
        if found is None or found[1]:
            raise no_place(name)
        _, way, block, sort, number, inner = found.groups()
        if sort == "resnets":
            if inner not in _UNET_RESNET:
                raise no_place(name)
            inner = _UNET_RESNET[inner]
        column = 0 if sort == "resnets" else 1
        if way == "mid":
            return Place(f"middle_block.{2 * int(number) + column}.{inner}.{kind}")
        first = int(block) * (per_block + 1)
        if sort == "downsamplers":
            return Place(f"input_blocks.{first + per_block + 1}.0.op.{kind}")
        if sort == "upsamplers":
            return Place(f"output_blocks.{first + per_block}.{1 + (block in attended)}.conv.{kind}")
        if way == "down":
            return Place(f"input_blocks.{first + int(number) + 1}.{column}.{inner}.{kind}")
        return Place(f"output_blocks.{first + int(number)}.{column}.{inner}.{kind}")

    return layout


def vae_layout(n_blocks: int) -> Layout:
    """The original autoencoder numbers the decoder's blocks from the last one; its attention is of 1 x 1 convolutions.

    Args:
        n_blocks: of the decoder.
    """

    def layout(name: str) -> Place:
        layer, _, kind = name.rpartition(".")
        if layer in _VAE_ENDS:
            return Place(name)
        if layer.endswith(".conv_norm_out"):
            return Place(f"{layer.replace('conv_norm_out', 'norm_out')}.{kind}")
        found = _BLOCK.fullmatch(layer)
        if found is None or not found[1]:
            raise no_place(name)
        half, way, block, sort, number, inner = found.groups()
        inside = _VAE_ATTENTION if sort == "attentions" else _VAE_RESNET
        if sort in ("resnets", "attentions") and inner not in inside:
            raise no_place(name)
        if way == "mid":
            sort = "attn" if sort == "attentions" else "block"
            return Place(f"{half}.mid.{sort}_{int(number) + 1}.{inside[inner]}.{kind}")
        there = f"{half}.{way}.{block if way == 'down' else n_blocks - 1 - int(block)}"
        if sort in ("downsamplers", "upsamplers"):
            return Place(f"{there}.{sort.removesuffix('rs')}.{inner}.{kind}")
        return Place(f"{there}.block.{number}.{inside[inner]}.{kind}")

    return layout
