"""What `diffdpo train --dry-run` says of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffdpo.config import ImageConfig

LABELS = {
    "network": "the network's weights",
    "adapter": "the LoRA's weights",
    "gradients": "gradients",
    "optimizer": "the optimiser's state",
    "average": "the running average",
    "reference": "the reference, a copy",
    "activations": "activations",
    "passing": "checkpointed blocks, made again",
}


def training_memory(config: ImageConfig, size: tuple[int, int]) -> dict[str, Any]:
    """`memory_gb` (1e9 bytes) while training and, by part, `memory_parts_gb`; `encoding_gb`, before training. All are
    estimated without loading or fetching anything, and None where nothing is known of the model here.

    Args:
        config: settled, see `training.image.fitting`.
        size: height and width of the images trained on, in pixels.

    Raises:
        UserError: the model is no pipeline, of no family that is here, or its weights are not there or not whole.
    """
    from diffdpo.models.memory.architectures import architecture_of
    from diffdpo.models.memory.footprint import footprint
    from diffdpo.models.memory.weights import encoders_gb
    from diffdpo.training.image.fitting import tuning_of

    path = config.model.path
    architecture, encoders = architecture_of(path), encoders_gb(path)
    if architecture is None:
        return {"memory_gb": None, "memory_parts_gb": None, "encoding_gb": None}
    found = footprint(architecture, tuning_of(config, size), path)
    return {
        "memory_gb": found.total / 1e9,
        "memory_parts_gb": {name: value / 1e9 for name, value in found.parts.items()},
        "encoding_gb": None if encoders is None else encoders + found.network / 1e9,
    }


def show_memory(plan: dict[str, Any]) -> None:
    if plan["memory_gb"] is None:
        print("memory: not counted, the model is not here yet and would be fetched from the hub")
        return
    print(f"memory while training: about {_short(plan['memory_gb'])} GB, an estimate:")
    for name, gb in plan["memory_parts_gb"].items():
        print(f"  {LABELS[name]:<34}{_short(gb):>8} GB")
    if plan["encoding_gb"] is not None:
        print(f"  (before that, while images and captions are encoded: {_short(plan['encoding_gb'])} GB for weights)")


def _short(gb: float) -> str:
    return f"{gb:.2g}" if gb < 1 else f"{gb:.1f}"
