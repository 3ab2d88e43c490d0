"""What training needs in memory, counted from the checkpoint's own files before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from diffdpo.errors import UserError

FLOAT32 = 4
ADAM = 2 * FLOAT32


def training_memory_gb(model: str, lora_rank: int, *, ema: bool) -> float | None:
    """Weights, gradients, Adam's moments, the weight average and a frozen reference, in 1e9 bytes.

    Activations are not in it: they grow with batch and resolution. A LoRA's own parameters are a few per cent of the
    UNet's and are not in it either. None for the name of a hub model: nothing is fetched to count it.

    Raises:
        UserError: no such folder, or it is not a pipeline.
    """
    folder = Path(model)
    if not folder.is_dir():
        if folder.is_absolute() or model.startswith(".") or model.count("/") != 1:
            raise UserError(f"model {model!r}: no such folder, and a hub name reads owner/name")
        return None
    unet = _parameters(folder / "unet")
    encoders = _parameters(folder / "vae") + _parameters(folder / "text_encoder")
    if unet == 0:
        raise UserError(f"{folder}: no unet/*.safetensors in it, so this is not a Stable Diffusion folder")
    per_weight = FLOAT32 if lora_rank else FLOAT32 + FLOAT32 + ADAM + FLOAT32 + (FLOAT32 if ema else 0)
    return (unet * per_weight + encoders * FLOAT32) / 1e9


def _parameters(folder: Path) -> int:
    """Parameters in a folder's safetensors files, read from their headers."""
    from safetensors import safe_open

    count = 0
    # Hub folders hold variants of the same weights, as `name.fp16.safetensors` or `name.non_ema.safetensors`.
    plain = [path for path in sorted(folder.glob("*.safetensors")) if path.stem.count(".") == 0]
    for path in plain:
        try:
            opened = safe_open(path, framework="pt")
        except Exception as error:  # a kind of its own, from Rust
            raise UserError(f"{path}: not a whole safetensors file ({error})") from None
        with opened as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                size = 1
                for edge in file.get_slice(name).get_shape():
                    size *= edge
                count += size
    return count
