"""Which examples a step sees. A function of (seed, step) alone, so that resuming needs no memory of the past."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from diffdpo.objectives.draws import derived_seed


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

    def place(self, index: int, epoch: int) -> int:
        """Where `between` has that example."""
        return epoch * self.n + self._places(epoch)[index]

    def _places(self, epoch: int) -> list[int]:
        return self._kept("_inverse", epoch, lambda: torch.tensor(self._permutation(epoch)).argsort().tolist())

    def _permutation(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed((self.seed << 20) + epoch)
        return self._kept("_epochs", epoch, lambda: torch.randperm(self.n, generator=generator).tolist())

    def _kept(self, name: str, epoch: int, make: Callable[[], list[int]]) -> list[int]:
        """The lists of the last two epochs that were asked for are kept; a thread may ask while another does."""
        kept: dict[int, list[int]] = self.__dict__.setdefault(name, {})
        found = kept.get(epoch)
        if found is None:
            found = make()
            if len(kept) > 1:
                kept.pop(min(kept), None)
            kept[epoch] = found
        return found


@dataclass(frozen=True)
class BucketOrder:
    """The order of examples that lie in buckets: blocks of one bucket each.

    Every bucket has an endless sequence of its own, an `Order`, which is cut into blocks. A round deals out, shuffled,
    the blocks that each bucket fills with one more pass over its examples. What does not fill a block waits for the
    next round: nothing is dropped or repeated, and in the long run every example is seen equally often.

    Args:
        buckets: of every example.
        batch: examples per step, over all processes and micro-steps.
        block: examples of a micro-step, over all processes; `batch` is a multiple of it.
    """

    buckets: Sequence[Hashable]
    batch: int
    block: int
    seed: int

    def __post_init__(self) -> None:
        if not self.buckets:
            raise ValueError("there is nothing to train on")
        if self.batch % self.block:
            raise ValueError(f"{self.batch} examples per step are not a whole number of blocks of {self.block}")

    @property
    def n(self) -> int:
        return len(self.buckets)

    def at(self, step: int) -> list[tuple[int, int]]:
        """As `Order.at`. An epoch is that of the example's own bucket."""
        return self.between(step * self.batch, (step + 1) * self.batch)

    def between(self, start: int, end: int) -> list[tuple[int, int]]:
        """The (example, epoch) of the places start..end-1 of the endless sequence."""
        first = start // self.block
        blocks = [self._block(number) for number in range(first, -(-end // self.block))]
        dealt = [example for block in blocks for example in block]
        return dealt[start - first * self.block : end - first * self.block]

    def place(self, index: int, epoch: int) -> int:
        """The place in the sequence of the example's own bucket, of which every block is a piece."""
        _, order = self._orders[self.buckets[index]]
        return order.place(self._ranks[index], epoch)

    @cached_property
    def _ranks(self) -> dict[int, int]:
        """Of every example its number among those of its bucket."""
        return {index: rank for members, _ in self._orders.values() for rank, index in enumerate(members)}

    def _block(self, number: int) -> list[tuple[int, int]]:
        round_ = number * self.block // self.n
        while self._blocks_before(round_ + 1) <= number:
            round_ += 1
        bucket, which = self._round(round_)[number - self._blocks_before(round_)]
        members, order = self._orders[bucket]
        return [(members[index], epoch) for index, epoch in order.at(which)]

    def _blocks_before(self, round_: int) -> int:
        """Blocks that the buckets fill with their first `round_` epochs."""
        return sum(round_ * len(members) // self.block for members, _ in self._orders.values())

    def _round(self, round_: int) -> list[tuple[Hashable, int]]:
        """(bucket, number of its block), in the order they are dealt out."""
        cached: dict[int, list[tuple[Hashable, int]]] = self.__dict__.setdefault("_rounds", {})
        if round_ not in cached:
            cached.clear()
            filled = {bucket: len(members) for bucket, (members, _) in self._orders.items()}
            blocks = [
                (bucket, which)
                for bucket, n in filled.items()
                for which in range(round_ * n // self.block, (round_ + 1) * n // self.block)
            ]
            generator = torch.Generator().manual_seed(derived_seed("round", self.seed, round_))
            cached[round_] = [blocks[place] for place in torch.randperm(len(blocks), generator=generator).tolist()]
        return cached[round_]

    @cached_property
    def _orders(self) -> dict[Hashable, tuple[list[int], Order]]:
        """Of every bucket the examples in it and their order."""
        members: dict[Hashable, list[int]] = {}
        for index, bucket in enumerate(self.buckets):
            members.setdefault(bucket, []).append(index)
        return {
            bucket: (those, Order(len(those), self.block, derived_seed("bucket", self.seed, bucket) >> 32))
            for bucket, those in members.items()
        }


def make_order(n: int, buckets: Sequence[Hashable] | None, batch: int, block: int, seed: int) -> Order | BucketOrder:
    """The order of `n` examples, in buckets if they have any."""
    return Order(n, batch, seed) if buckets is None else BucketOrder(buckets, batch, block, seed)
