"""Which examples a step sees. A function of (seed, step) alone, so that resuming needs no memory of the past."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Order:
    """Every epoch is a fresh permutation of the examples; epochs follow each other without a gap.

    Args:
        n: number of examples.
        batch: examples per step, over all processes and micro-steps.
    """

    n: int
    batch: int
    seed: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError("there is nothing to train on")

    def at(self, step: int) -> list[tuple[int, int]]:
        """The (example, epoch) of every place of the step's batch, whatever number of processes share it out."""
        return self.between(step * self.batch, (step + 1) * self.batch)

    def between(self, start: int, end: int) -> list[tuple[int, int]]:
        """The (example, epoch) of the places start..end-1 of the endless sequence, which no batch size moves."""
        places = range(start, end)
        return [(self._permutation(place // self.n)[place % self.n], place // self.n) for place in places]

    def _permutation(self, epoch: int) -> list[int]:
        cached: dict[int, list[int]] = self.__dict__.setdefault("_epochs", {})
        if epoch not in cached:
            if len(cached) > 1:
                cached.pop(min(cached))
            generator = torch.Generator().manual_seed((self.seed << 20) + epoch)
            cached[epoch] = torch.randperm(self.n, generator=generator).tolist()
        return cached[epoch]
