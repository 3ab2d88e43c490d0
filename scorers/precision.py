"""Where and in which number format a scorer computes, and the guard that keeps it so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from scorers.errors import ScorerError, first_line

_DTYPES = {
    "fp32": torch.float32,
    "float32": torch.float32,
    "fp16": torch.float16,
    "float16": torch.float16,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
}


def resolve_dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    """None is float32 on every device: half precision moves a score by more than close pairs differ."""
    if dtype is None:
        return torch.float32
    found = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found is None or found not in _DTYPES.values():
        raise ScorerError(f"dtype {dtype!r} is not known: use fp32, fp16 or bf16")
    return found


def resolve_device(device: str | torch.device) -> torch.device:
    """`device`, tried with an empty tensor: a missing GPU is reported before the weights are read."""
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:  # torch built without it, or no such GPU
        why = first_line(error)
        raise ScorerError(f"device {str(device)!r} cannot be used here ({why}): use 'cpu'") from error
    return resolved


def dtype_name(dtype: torch.dtype) -> str:
    """`torch.float32` -> "float32", for manifests."""
    return str(dtype).removeprefix("torch.")


@contextmanager
def exact_precision(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Inside the block the model computes in `dtype` alone, whatever the surrounding training has set.

    Autocast is off. For float32 on CUDA, TF32 is off too: convolutions use it by default and training often
    switches matrix products to it as well. The former settings come back afterwards.
    """
    with torch.autocast(device.type, enabled=False):
        if device.type != "cuda" or dtype is not torch.float32:
            yield
            return
        parts: tuple[Any, ...] = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
        before = [part.fp32_precision for part in parts]
        try:
            for part in parts:
                part.fp32_precision = "ieee"
            yield
        finally:
            for part, value in zip(parts, before, strict=True):
                part.fp32_precision = value
