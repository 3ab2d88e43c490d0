"""What the training loop asks of a method, and what it offers to one that wants more."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


class Recipe(Protocol):
    """A method. `examples` of a batch are (index, epoch) pairs."""

    @property
    def network(self) -> nn.Module: ...

    @property
    def n_examples(self) -> int: ...

    def loss(self, network: nn.Module, examples: Sequence[tuple[int, int]]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss of some examples through `network` (wrapped for several processes), and figures to log."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Held-out figures of the weights that are in `self.network` now."""
        ...


@runtime_checkable
class Announced(Protocol):
    """A recipe that wants to know more than its own micro-step, to weigh examples or to prepare them ahead."""

    def announce(self, step: Sequence[tuple[int, int]], coming: Sequence[tuple[int, int]]) -> None:
        """Called before the losses of an optimiser step.

        Args:
            step: all examples of this step, over all processes and micro-steps.
            coming: those of the next one that this process will be asked for.
        """
        ...


class Watch(Protocol):
    """Somebody who looks at the weights now and then, such as at what they draw, and moves none."""

    def due(self, step: int) -> bool: ...

    def __call__(self, step: int) -> dict[str, float]:
        """Figures to log. Called in every process; the network has the weights that would be exported."""
        ...


@runtime_checkable
class Bucketed(Protocol):
    """A recipe whose examples may not all share a batch."""

    @property
    def buckets(self) -> Sequence[Hashable] | None:
        """Of every example; only those of one bucket are put into a micro-step. None where all may be."""
        ...


@runtime_checkable
class Uneven(Protocol):
    """A recipe whose examples are filled up to the longest of a micro-step. Those of alike length share one; which
    examples a step has is not moved by it."""

    def length(self, example: tuple[int, int]) -> int: ...


class Ordering(Protocol):
    """Which examples a step sees."""

    @property
    def batch(self) -> int:
        """Examples per step, over all processes and micro-steps."""
        ...

    def at(self, step: int) -> list[tuple[int, int]]:
        """The (example, epoch) of every place of the step's batch; a function of the step alone."""
        ...


@runtime_checkable
class Ordered(Protocol):
    """A recipe whose examples come in an order of its own."""

    def order(self, batch: int) -> Ordering:
        """Called once; `batch` examples per step, over all processes and micro-steps."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """A recipe with a state beside its weights."""

    def state(self) -> dict[str, Any]:
        """In JSON values: what a checkpoint keeps."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's."""
        ...
