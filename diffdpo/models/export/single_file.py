"""A whole pipeline as one `.safetensors` file in the layout of the original checkpoints, as ComfyUI opens it.

What every network is called in such a file was read in diffusers' `from_single_file`, which is also what the tests hold
the files against. Every tensor keeps its bits: it is renamed, stacked with its neighbours, or seen in another shape.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from diffdpo.errors import UserError
from diffdpo.models.export import text
from diffdpo.models.export.denoisers import State, flux_state, is_second, sd3_state, unet_state
from diffdpo.models.export.layout import Layout, stacked
from diffdpo.models.export.tensors import write_tensors
from diffdpo.models.export.unet import vae_layout

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
    write_tensors(file, whole_state(pipeline), metadata)
    _save_configs(pipeline, file.with_suffix(""))


def _stable_diffusion(pipeline: Any) -> State:
    if is_second(pipeline.unet):
        encoder = _open_clip(pipeline.text_encoder, "cond_stage_model.model.")
    else:
        encoder = _named(pipeline.text_encoder, "cond_stage_model.transformer.", text.clip)
    return {**_prefixed(unet_state(pipeline.unet), DENOISER), **_vae(pipeline.vae, "first_stage_model."), **encoder}


def _sdxl(pipeline: Any) -> State:
    state = {
        **_prefixed(unet_state(pipeline.unet), DENOISER),
        **_vae(pipeline.vae, "first_stage_model."),
        **_named(pipeline.text_encoder, "conditioner.embedders.0.transformer.", text.clip),
        **_open_clip(pipeline.text_encoder_2, "conditioner.embedders.1.model."),
    }
    if pipeline.scheduler.config.prediction_type == "v_prediction":
        state["v_pred"] = torch.zeros(0)  # its presence is the sign that ComfyUI and A1111 look for
    return state


def _sd3(pipeline: Any) -> State:
    _check_projection(pipeline.text_encoder)
    return {
        **_prefixed(sd3_state(pipeline.transformer.state_dict()), DENOISER),
        **_vae(pipeline.vae, "first_stage_model."),
        **_named(pipeline.text_encoder, "text_encoders.clip_l.transformer.", text.clip),
        **_named(pipeline.text_encoder_2, "text_encoders.clip_g.transformer.", text.clip),
        **_t5(pipeline.text_encoder_3),
    }


def _flux(pipeline: Any) -> State:
    return {
        **_prefixed(flux_state(pipeline.transformer.state_dict()), DENOISER),
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
        if hasattr(part, "save_config"):  # diffusers' networks and schedulers
            part.save_config(folder / name)
        elif part is not None:  # transformers' networks have a config, its tokenizers are one
            getattr(part, "config", part).save_pretrained(folder / name)
