"""The hardware's bound: how quickly it multiplies large matrices."""

from __future__ import annotations

import torch

from speed.clock import Times, timed

SIZES = {"cpu": 2048, "cuda": 8192}
"""Edges of matrices that are large enough for that device."""


def matmul_rate(device: str, dtype: torch.dtype, *, size: int | None = None, times: int = 20) -> float:
    """TFLOP/s of products of square matrices, by the clock that steps are told by."""
    edge = size or SIZES[device]
    a, b = (torch.randn(edge, edge, device=device, dtype=dtype) for _ in range(2))
    a @ b  # the first one also wakes the library up
    found = Times()
    timed(lambda _: a @ b, found, device, range(times))
    return 2 * edge**3 / found.told(device) / 1e12
