"""From a checkpoint to its family: the one place that lists the families."""

from __future__ import annotations

from typing import Any

from diffdpo.errors import UserError
from diffdpo.models.flux import Flux
from diffdpo.models.pipeline_model import PipelineModel
from diffdpo.models.sampling import load_pipeline
from diffdpo.models.sd3 import StableDiffusion3
from diffdpo.models.sdxl import SDXL
from diffdpo.models.stable_diffusion import StableDiffusion

FAMILIES: dict[str, type[PipelineModel]] = {
    family.pipeline_class: family for family in (StableDiffusion, SDXL, StableDiffusion3, Flux)
}
"""By the diffusers pipeline that a checkpoint opens as."""


def load_model(path: str, **options: Any) -> PipelineModel:
    """Open a checkpoint for training, as the family that it says it is.

    Args:
        path: a diffusers folder, a hub name or a single `.safetensors` file.
        options: of `PipelineModel`.

    Raises:
        UserError: it cannot be opened, or is of a family that is not here.
    """
    pipeline = load_pipeline(path, own_t5=True)
    return family_of(type(pipeline).__name__, path)(pipeline, path, **options)


def family_of(pipeline_class: str, path: str) -> type[PipelineModel]:
    """The family that a checkpoint of that diffusers class is of; UserError, naming `path`, if none here is."""
    if pipeline_class not in FAMILIES:
        raise UserError(f"model {path!r}: a {pipeline_class}; what can be trained is {', '.join(FAMILIES)}")
    return FAMILIES[pipeline_class]
