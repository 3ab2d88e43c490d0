"""What a model's weights need in memory, counted from the checkpoint's own files before anything is loaded.

What tuning it takes in all is in `models.footprint`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from diffdpo.errors import UserError

if TYPE_CHECKING:
    import torch

FLOAT32 = 4
ADAM = 2 * FLOAT32


def language_model_memory_gb(model: str, lora_rank: int, *, ema: bool, copy: bool) -> float | None:
    """Weights, gradients, Adam's moments, the average and a frozen copy of a language model, in 1e9 bytes; activations,
    which grow with the batch, are not in it. None for a hub name, and for a GGUF file, whose weights are packed."""
    folder = Path(model)
    if not folder.is_dir():
        return None
    return _parameters(folder) * _per_weight(lora_rank, ema=ema, copy=copy) / 1e9


def trained_memory_gb(parameters: int, trained: int, *, ema: bool) -> float:
    """Weights in float32, and of the trained ones gradients, Adam's moments and the average, in 1e9 bytes."""
    per_trained = FLOAT32 + ADAM + (FLOAT32 if ema else 0)
    return (parameters * FLOAT32 + trained * per_trained) / 1e9


def encoders_gb(model: str) -> float | None:
    """The autoencoder and the text encoders as they are when they encode, in 1e9 bytes; None where they are in no
    folder here.

    Raises:
        UserError: no such folder, a file in it is damaged, or the denoiser's weights are not in it.
    """
    folder = _local_folder(model)
    if folder is None or folder.is_file():
        return None
    if not _parameters(folder / "unet") + _parameters(folder / "transformer"):
        raise UserError(
            f"{folder}: no unet/ or transformer/ with *.safetensors in it, so this is no diffusers pipeline"
        )
    return sum(_encoder_bytes(part) for part in (folder / "vae", *folder.glob("text_encoder*"))) / 1e9


def weights_gb(model: str, dtype: torch.dtype) -> float | None:
    """All weights of a pipeline in `dtype`, in 1e9 bytes: the least that drawing images needs.

    None for the name of a hub model: nothing is fetched to count it.

    Raises:
        UserError: no such folder, or a file in it is damaged.
    """
    folder = _local_folder(model)
    if folder is None:
        return None
    if folder.is_file():
        return _count(folder) * dtype.itemsize / 1e9
    return sum(_parameters(part) for part in folder.iterdir() if part.is_dir()) * dtype.itemsize / 1e9


def _per_weight(lora_rank: int, *, ema: bool, copy: bool) -> int:
    """Bytes that training takes for a weight of the network."""
    trained = FLOAT32 + ADAM + (FLOAT32 if ema else 0) + (FLOAT32 if copy else 0)
    return FLOAT32 if lora_rank else FLOAT32 + trained


def _local_folder(model: str) -> Path | None:
    folder = Path(model)
    if folder.exists():
        return folder
    if folder.is_absolute() or model.startswith(".") or model.count("/") != 1:
        raise UserError(f"model {model!r}: no such folder, and a hub name reads owner/name")
    return None


def _parameters(folder: Path) -> int:
    """Parameters in a folder's safetensors files."""
    return sum(map(_count, _weights(folder)))


def _encoder_bytes(folder: Path) -> int:
    """What an encoder takes while it encodes: float32, and T5 what is stored of it."""
    config = folder / "config.json"
    if config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("model_type") == "t5":
        return sum(path.stat().st_size for path in _weights(folder))
    return _parameters(folder) * FLOAT32


def _weights(folder: Path) -> list[Path]:
    # Hub folders hold variants of the same weights, as `name.fp16.safetensors` or `name.non_ema.safetensors`.
    return [path for path in sorted(folder.glob("*.safetensors")) if path.stem.count(".") == 0]


def _count(path: Path) -> int:
    """Parameters in a safetensors file, read from its header.

    Raises:
        UserError: it is not one.
    """
    from safetensors import safe_open

    try:
        opened = safe_open(path, framework="pt")
    except Exception as error:  # a kind of its own, from Rust
        raise UserError(f"{path}: not a whole safetensors file ({error})") from None
    with opened as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 (not a dict)
