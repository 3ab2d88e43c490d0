"""A whole checkpoint in one `.safetensors` file, as model sites offer them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

PIPELINES = {
    "v1": "StableDiffusionPipeline",
    "v2": "StableDiffusionPipeline",
    "xl_base": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "sd35_medium": "StableDiffusion3Pipeline",
    "sd35_large": "StableDiffusion3Pipeline",
    "flux-dev": "FluxPipeline",
    "flux-schnell": "FluxPipeline",
}
"""diffusers' names for the layouts of such files, and the pipeline of each."""


def open_single_file(path: Path, dtype: torch.dtype) -> DiffusionPipeline:
    """Open it through diffusers' `from_single_file`.

    Configs and tokenizers are taken from a diffusers folder beside the file that has the file's name without its
    ending, where there is one: then the family is what that folder's `model_index.json` says, and no network is needed.
    Otherwise the family is told by the file's tensors, and diffusers takes the configs of the published model from
    its hub cache or fetches them.

    Raises:
        ValueError: the tensors are of no family that is known here; and whatever diffusers raises.
    """
    import diffusers

    beside = path.with_suffix("")
    options: dict[str, Any] = {"dtype": dtype}
    if (beside / "model_index.json").is_file():
        index = json.loads((beside / "model_index.json").read_text(encoding="utf-8"))
        name = index["_class_name"]
        options["config"] = str(beside)
        # What the folder says that the pipeline has not, as SD3 its T5: without a word diffusers would look for it.
        options |= {part: None for part, made_by in index.items() if isinstance(made_by, list) and not made_by[0]}
    else:
        name = PIPELINES.get(kind := kind_of(path), "")
        if not name:
            raise ValueError(f"its tensors are laid out as {kind}, which is no family that is known here")
    if name == "StableDiffusionPipeline":
        options |= {"safety_checker": None, "requires_safety_checker": False}
    return getattr(diffusers, name).from_single_file(str(path), **options)


def kind_of(path: Path) -> str:
    """diffusers' name for the layout of a single file, told by its tensors."""
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type, load_single_file_checkpoint

    return str(infer_diffusers_model_type(load_single_file_checkpoint(str(path))))
