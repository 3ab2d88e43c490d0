"""From diffusers' names of tensors to those of the original checkpoints, which ComfyUI and its kin read.

A layout is a function from a name to a `Place`. It knows every name of its network and refuses the others, so that
nothing is written under a name that no program looks for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from diffdpo.errors import UserError


class Place(NamedTuple):
    """Where a tensor goes. Several parts of one key are stacked along their first dimension, in the order of `part`."""

    key: str
    part: int = 0


Layout = Callable[[str], Place]


@dataclass(frozen=True)
class Table:
    """A layout as a table of layers. `key|1` stands for part 1 of `key`.

    Args:
        layers: layers that are there once.
        blocks: numbered ones: name of the list -> its name there, and the layers within a block.
        scales: layers whose `weight` is called `scale` there.
    """

    layers: Mapping[str, str]
    blocks: Mapping[str, tuple[str, Mapping[str, str]]] = field(default_factory=dict)
    scales: frozenset[str] = frozenset()

    def __call__(self, name: str) -> Place:
        layer, _, kind = name.rpartition(".")
        there, tail = self._layer(name, layer)
        key, _, part = there.partition("|")
        return Place(f"{key}.{'scale' if tail in self.scales else kind}", int(part or 0))

    def _layer(self, name: str, layer: str) -> tuple[str, str]:
        if layer in self.layers:
            return self.layers[layer], layer
        found = re.fullmatch(r"(.+?)\.(\d+)\.(.+)", layer)
        if found and found[1] in self.blocks:
            block, inner = self.blocks[found[1]]
            if found[3] in inner:
                return f"{block}.{found[2]}.{inner[found[3]]}", found[3]
        raise no_place(name)


def no_place(name: str) -> UserError:
    """What to raise for a tensor that the original networks do not have."""
    return UserError(
        f"the network has a part {name!r} that the original layout has no place for; export with --format diffusers"
    )


def stacked(state: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """The same tensors under their original names, with those that share a key stacked."""
    parts: dict[str, dict[int, Tensor]] = {}
    for name, tensor in state.items():
        key, part = layout(name)
        parts.setdefault(key, {})[part] = tensor
    return {key: _stack(found) for key, found in parts.items()}


def _stack(parts: Mapping[int, Tensor]) -> Tensor:
    ordered = [parts[number] for number in sorted(parts)]
    return ordered[0] if len(ordered) == 1 else torch.cat(ordered)
