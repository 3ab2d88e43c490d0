"""What other programs read in a file's header: ModelSpec (Stability-AI/ModelSpec 1.0.1) and kohya's `ss_` keys.

Both leave room for dates and for the machine; they are left out, so that equal runs give equal bytes.
"""

from __future__ import annotations

from typing import Any

from diffdpo.models.export.denoisers import is_second
from diffdpo.models.lora import rank_and_alpha

_STABILITY = "https://github.com/Stability-AI/generative-models"
_FLUX = "https://github.com/black-forest-labs/flux"


def model_spec(pipeline: Any, title: str) -> dict[str, str]:
    """The header of a whole model."""
    architecture, _, implementation = _kind(pipeline)
    spec = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": architecture,
        "modelspec.implementation": implementation,
        "modelspec.title": title,
        "modelspec.resolution": "x".join([str(_edge(pipeline))] * 2),
    }
    if hasattr(pipeline, "unet"):
        spec["modelspec.prediction_type"] = "v" if _predicts_v(pipeline) else "epsilon"
    return spec


def lora_spec(pipeline: Any, network: Any, title: str) -> dict[str, str]:
    """The header of a LoRA: as above, and what kohya's own scripts read."""
    spec = model_spec(pipeline, title)
    spec["modelspec.architecture"] += "/lora"
    if type(pipeline).__name__ == "StableDiffusionPipeline":
        spec["modelspec.implementation"] = "diffusers"  # whose names its layers have
    rank, alpha = rank_and_alpha(network)
    _, version, _ = _kind(pipeline)
    return {
        **spec,
        "ss_v2": str(version.startswith("sd_v2")),
        "ss_base_model_version": version,
        "ss_network_module": _MODULES.get(type(pipeline).__name__, "networks.lora"),
        "ss_network_dim": str(rank),
        "ss_network_alpha": f"{alpha:g}",
        "ss_output_name": title,
    }


_MODULES = {"StableDiffusion3Pipeline": "networks.lora_sd3", "FluxPipeline": "networks.lora_flux"}


def _kind(pipeline: Any) -> tuple[str, str, str]:
    """ModelSpec's architecture, kohya's name of the base model, and whose code first ran it."""
    match type(pipeline).__name__:
        case "StableDiffusionXLPipeline":
            return "stable-diffusion-xl-v1-base", "sdxl_base_v1-0", _STABILITY
        case "StableDiffusion3Pipeline":
            size = _sd3_size(pipeline.transformer.config)
            return f"stable-diffusion-3-{size}", size, _STABILITY
        case "FluxPipeline":
            return f"flux-1-{'dev' if pipeline.transformer.config.guidance_embeds else 'schnell'}", "flux1", _FLUX
    v = _predicts_v(pipeline)
    if is_second(pipeline.unet):
        return "stable-diffusion-v2-" + ("768-v" if v else "512"), "sd_v2" + "_v" * v, _STABILITY
    return "stable-diffusion-v1", "sd_v1" + "_v" * v, _STABILITY


def _sd3_size(config: Any) -> str:
    """Only 3.5 normalises queries and keys, and only its medium size has second attentions."""
    if not config.qk_norm:
        return "medium"
    return "5-medium" if config.dual_attention_layers else "5-large"


def _predicts_v(pipeline: Any) -> bool:
    return bool(pipeline.scheduler.config.get("prediction_type") == "v_prediction")


def _edge(pipeline: Any) -> int:
    """Pixels along an edge of what the base model draws by itself."""
    denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
    own = getattr(denoiser.config, "sample_size", None) or pipeline.default_sample_size
    return int(own * pipeline.vae_scale_factor)
