"""A trained model, written in the form that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffdpo.errors import UserError
from diffdpo.models.export.form import Form
from diffdpo.models.export.kohya import lora_state
from diffdpo.models.export.metadata import lora_spec, model_spec
from diffdpo.models.export.single_file import write_single_file
from diffdpo.models.export.tensors import write_tensors
from diffdpo.models.lora import merged_state, save_lora
from diffdpo.models.sampling import load_pipeline

if TYPE_CHECKING:
    from diffdpo.models.pipeline_model import PipelineModel

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def write(model: PipelineModel, folder: Path, form: Form) -> None:
    """Fill `folder` with the model as it is now.

    Raises:
        UserError: the form does not go with the model, or a weight does not fit into the dtype.
    """
    lora = model.lora_rank > 0
    form.check(lora)
    if lora and not form.merge:
        _write_lora(model, folder, form)
        return
    pipeline = whole_pipeline(model)
    if form.dtype:
        for name, part in pipeline.components.items():
            if isinstance(part, torch.nn.Module):
                _check_fits(name, part.state_dict(), form.dtype)
                part.to(DTYPES[form.dtype])
    if form.kind == "diffusers":
        pipeline.save_pretrained(folder)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_single_file(pipeline, folder / form.file, model_spec(pipeline, form.name))


def whole_pipeline(model: PipelineModel) -> Any:
    """The pipeline that the model was opened from, with the trained network, a LoRA merged, in place of its own."""
    pipeline = load_pipeline(model.path, own_scheduler=True, own_t5=True)
    state = {key: value.cpu() for key, value in merged_state(model.network).items()}
    getattr(pipeline, model.denoiser).load_state_dict(state)
    return pipeline


def _write_lora(model: PipelineModel, folder: Path, form: Form) -> None:
    dtype = DTYPES[form.dtype] if form.dtype else None
    if form.kind == "diffusers":
        save_lora(model.network, type(model.pipeline), folder, model.denoiser, dtype)
        return
    # sd-scripts train Stable Diffusion 1.x and 2.x on a network with diffusers' names, all others on the original one.
    original = type(model.pipeline).__name__ != "StableDiffusionPipeline"
    state = lora_state(model.network, original_names=original)
    if form.dtype:
        _check_fits(form.name, state, form.dtype)
    stored = {key: tensor if key.endswith(".alpha") else tensor.to(dtype) for key, tensor in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / form.file, stored, lora_spec(model.pipeline, model.network, form.name))


def _check_fits(part: str, state: dict[str, Tensor], dtype: str) -> None:
    most = torch.finfo(DTYPES[dtype]).max
    for name, tensor in state.items():
        if tensor.is_floating_point() and tensor.numel() and tensor.abs().max() > most:
            raise UserError(f"--dtype {dtype}: {part} has a weight above {most:g} ({name}); say --dtype bf16 or fp32")
