"""A whole pipeline as one `.safetensors` file in the layout of the original checkpoints, as ComfyUI opens it.

What every network is called in such a file was read in diffusers' `from_single_file`, which is also what the tests hold
the files against. Every tensor keeps its bits: it is renamed, stacked with its neighbours, or seen in another shape.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from diffdpo.errors import UserError
from diffdpo.models.export import text
from diffdpo.models.export.layout import Layout, stacked
from diffdpo.models.export.transformers import FLUX, SD3
from diffdpo.models.export.unet import unet_layout, vae_layout

State = dict[str, Tensor]
DENOISER = "model.diffusion_model."


def whole_state(pipeline: Any) -> State:
    """All tensors of a pipeline of a family that can be trained here, under their original names.

    Raises:
        UserError: it has a part that the original layout has no place for.
    """
    return _FAMILIES[type(pipeline).__name__](pipeline)


def write_single_file(pipeline: Any, file: Path, metadata: dict[str, str]) -> None:
    """Write the file, and beside it a folder of its name with the configs and tokenizers: what `from_single_file` takes
    as `config=`, and `models.single_file` finds by itself."""
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in whole_state(pipeline).items()}
    save_file(state, file, {"format": "pt", **metadata})
    _save_configs(pipeline, file.with_suffix(""))


def denoiser_layout(network: Any) -> Layout:
    """Where the tensors of a network of a known family go; without the prefix."""
    kind = type(network).__name__
    if kind == "UNet2DConditionModel":
        per_block = network.config.layers_per_block
        if not isinstance(per_block, int):
            raise UserError("its UNet has blocks of several lengths, which the original layout has not")
        return unet_layout(network.state_dict(), per_block)
    return SD3 if kind == "SD3Transformer2DModel" else FLUX


def _stable_diffusion(pipeline: Any) -> State:
    if is_second(pipeline.unet):
        encoder = _open_clip(pipeline.text_encoder, "cond_stage_model.model.")
    else:
        encoder = _named(pipeline.text_encoder, "cond_stage_model.transformer.", text.clip)
    return {**_unet(pipeline.unet), **_vae(pipeline.vae, "first_stage_model."), **encoder}


def is_second(unet: Any) -> bool:
    """Whether a UNet for one text encoder is of Stable Diffusion 2.x, not 1.x: its attention has linear projections."""
    return bool(unet.config.use_linear_projection)


def _sdxl(pipeline: Any) -> State:
    state = {
        **_unet(pipeline.unet),
        **_vae(pipeline.vae, "first_stage_model."),
        **_named(pipeline.text_encoder, "conditioner.embedders.0.transformer.", text.clip),
        **_open_clip(pipeline.text_encoder_2, "conditioner.embedders.1.model."),
    }
    if pipeline.scheduler.config.prediction_type == "v_prediction":
        state["v_pred"] = torch.zeros(0)  # its presence is the sign that ComfyUI and A1111 look for
    return state


def _sd3(pipeline: Any) -> State:
    network = pipeline.transformer
    tensors = network.state_dict()
    positions = tensors.pop("pos_embed.pos_embed")
    state = stacked(tensors, SD3)
    last = f"joint_blocks.{network.config.num_layers - 1}.context_block.adaLN_modulation.1."
    _swap_halves(state, ("final_layer.adaLN_modulation.1.", last))
    _check_projection(pipeline.text_encoder)
    return {
        **_prefixed({"pos_embed": positions, **state}, DENOISER),
        **_vae(pipeline.vae, "first_stage_model."),
        **_named(pipeline.text_encoder, "text_encoders.clip_l.transformer.", text.clip),
        **_named(pipeline.text_encoder_2, "text_encoders.clip_g.transformer.", text.clip),
        **_t5(pipeline.text_encoder_3),
    }


def _flux(pipeline: Any) -> State:
    state = stacked(pipeline.transformer.state_dict(), FLUX)
    _swap_halves(state, ("final_layer.adaLN_modulation.1.",))
    return {
        **_prefixed(state, DENOISER),
        **_vae(pipeline.vae, "vae."),
        **_named(pipeline.text_encoder, "text_encoders.clip_l.transformer.", text.clip),
        **_t5(pipeline.text_encoder_2),
    }


_FAMILIES: dict[str, Callable[[Any], State]] = {
    "StableDiffusionPipeline": _stable_diffusion,
    "StableDiffusionXLPipeline": _sdxl,
    "StableDiffusion3Pipeline": _sd3,
    "FluxPipeline": _flux,
}


def _unet(unet: Any) -> State:
    return _prefixed(stacked(unet.state_dict(), denoiser_layout(unet)), DENOISER)


def _vae(vae: Any, prefix: str) -> State:
    state = stacked(vae.state_dict(), vae_layout(len(vae.config.up_block_types)))
    for key, tensor in state.items():
        if ".attn_1." in key and tensor.ndim == 2:
            state[key] = tensor[:, :, None, None]
    return _prefixed(state, prefix)


def _open_clip(encoder: Any, prefix: str) -> State:
    state = stacked(encoder.state_dict(), text.open_clip)
    if "text_projection" in state:
        state["text_projection"] = state["text_projection"].T
    return _prefixed(state, prefix)


def _t5(encoder: Any) -> State:
    if encoder is None:
        return {}
    state = encoder.state_dict()
    # The same tensor as `shared.weight`; diffusers looks for it under both names.
    state["encoder.embed_tokens.weight"] = state["shared.weight"].clone()
    return _prefixed(state, "text_encoders.t5xxl.transformer.")


def _named(module: Any, prefix: str, layout: Layout) -> State:
    return _prefixed(stacked(module.state_dict(), layout), prefix)


def _prefixed(state: State, prefix: str) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


def _swap_halves(state: State, prefixes: tuple[str, ...]) -> None:
    """Where diffusers has scale before shift, the original has shift before scale."""
    for key, tensor in state.items():
        if key.startswith(prefixes):
            state[key] = torch.cat(tensor.chunk(2)[::-1])


def _check_projection(encoder: Any) -> None:
    """SD3's original uses its first CLIP without a projection; readers of the file put the identity in its place."""
    weight = encoder.text_projection.weight
    if not torch.equal(weight, torch.eye(*weight.shape, dtype=weight.dtype, device=weight.device)):
        raise UserError(
            "the projection of its first text encoder is not the identity, which a single file of Stable Diffusion 3"
            " cannot say; export with --format diffusers"
        )


def _save_configs(pipeline: Any, folder: Path) -> None:
    pipeline.save_config(folder)
    for name, part in pipeline.components.items():
        if part is None:
            continue
        place = folder / name
        if isinstance(part, torch.nn.Module) and hasattr(part, "save_config"):
            part.save_config(place)  # a model of diffusers
        else:
            (part.config if isinstance(part, torch.nn.Module) else part).save_pretrained(place)
