"""Where and in what precision to compute."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffdpo.errors import UserError, unknown

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
DEVICES = ("cpu", "cuda", "mps", "xpu")
"""Kinds of devices; a number may follow, as in `cuda:1`."""


def pick_device(name: str = "auto") -> str:
    """A torch device name: the GPU where there is one, unless another is asked for."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name.split(":")[0] not in DEVICES:
        raise UserError(f"device {name!r}: name one of {', '.join(DEVICES)}, or leave it out; cuda:1 is the second GPU")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).splitlines()[0]
        raise UserError(f"device {name!r}: cannot be used here ({why}); use cpu, or leave it out") from None
    return name


def pick_dtype(precision: str, device: str) -> torch.dtype:
    """The dtype for inference: half precision on a GPU and float32 elsewhere, unless one is asked for."""
    import torch

    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if precision == "auto":
        precision = "fp16" if device.startswith("cuda") else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
