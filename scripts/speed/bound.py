"""The hardware's bound: how quickly it multiplies large matrices."""

from __future__ import annotations

import torch

from speed.clock import Times, take_turns

EDGES = {"cpu": 2048, "cuda": 8192}
"""Edges of matrices that are large enough for that device."""


class Products:
    """A way that takes turns with the others, so that the bound is of the machine as it was for them.

    Args:
        size: edge of the matrices; None is what the device needs.

    Attributes:
        flops: of a step.
    """

    name = "products of large matrices"

    def __init__(self, device: str, dtype: torch.dtype, size: int | None = None) -> None:
        self.device, self.dtype, self.size = device, dtype, size or EDGES[device]
        self.flops = 2 * self.size**3

    def open(self) -> None:
        shape = self.size, self.size
        self.factors = [torch.randn(shape, device=self.device, dtype=self.dtype) for _ in range(2)]

    def close(self) -> None:
        del self.factors

    def step(self, number: int) -> torch.Tensor:
        return self.factors[0] @ self.factors[1]

    def rate(self, times: Times) -> float:
        """TFLOP/s."""
        return self.flops / times.seconds(self.device) / 1e12


def matmul_rate(device: str, dtype: torch.dtype, *, size: int | None = None, times: int = 30) -> float:
    """The bound by itself, TFLOP/s."""
    way = Products(device, dtype, size)
    [found] = take_turns([way], device, rounds=1, steps=times, warmup=1, tell=lambda line: None)
    return way.rate(found)
