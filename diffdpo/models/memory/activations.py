"""What a forward pass keeps for the backward pass, in bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


@dataclass(frozen=True)
class Activations:
    """Bytes. With gradient checkpointing, `kept` is what lies between the blocks, and `block` what the largest of them
    makes again during the backward pass; without it, `block` is 0."""

    kept: int
    block: int


def activations(network: nn.Module, forward: Callable[[], object], *, checkpointing: bool) -> Activations:
    """Count what autograd keeps of one call of `forward`, which runs a diffusers network.

    Storages count once, however many views of them are kept, and weights not at all: those are there anyway. Copies of
    the weights in half precision, which autocast makes, do count.
    """
    blocks: list[int] = [0]
    outside = _Kept(_weights(network))
    if checkpointing:
        network.enable_gradient_checkpointing(_counted(outside, blocks))  # type: ignore[operator]
    try:
        with outside.counted():
            forward()
    finally:
        if checkpointing:
            network.disable_gradient_checkpointing()  # type: ignore[operator]
    return Activations(outside.bytes, max(blocks))


def _counted(outside: _Kept, blocks: list[int]) -> Callable[..., Any]:
    """In place of torch's checkpointing of a block: what it is called with is kept, what it makes is counted apart."""

    def call(block: Callable[..., Any], *args: Any) -> Any:
        outside.add(args)
        inside = _Kept(outside.known)
        with inside.counted():
            result = block(*args)
        blocks.append(inside.bytes)
        return result

    return call


class _Kept:
    """Distinct storages, besides some."""

    def __init__(self, besides: Iterable[int]) -> None:
        self.besides = set(besides)
        self.storages: dict[int, torch.UntypedStorage] = {}

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self.storages.values())

    @property
    def known(self) -> set[int]:
        return self.besides | self.storages.keys()

    @contextmanager
    def counted(self) -> Iterator[None]:
        with saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield

    def add(self, tensors: Iterable[Any]) -> None:
        for tensor in tensors:
            if isinstance(tensor, Tensor):
                self._pack(tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.besides:
            self.storages[storage._cdata] = storage  # held, so that no other takes its address meanwhile
        return tensor


def _weights(network: nn.Module) -> Iterator[int]:
    for tensor in (*network.parameters(), *network.buffers()):
        yield tensor.untyped_storage()._cdata
