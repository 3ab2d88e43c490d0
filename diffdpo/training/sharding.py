"""Tensors that lie in parts on several processes, as FSDP2 leaves parameters, gradients and what is made of them.

A part is a run of rows of the first dimension. A plain tensor is its own part, in every process.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate, Shard


def local(tensor: Tensor) -> Tensor:
    """This process's part, in the same memory and without a gradient of its own."""
    part: Tensor = tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor.detach()
    return part


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor. All processes must ask for it, in the same order."""
    full: Tensor = tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor.detach()
    return full


def gathered(tensors: Sequence[Tensor], *, keep: bool) -> list[Tensor]:
    """All of some tensors, one after the other, in the processes that `keep` them; parted ones come to the CPU."""
    found: list[Tensor] = []
    for tensor in tensors:
        full = whole(tensor)
        if keep:
            found.append(full.cpu() if isinstance(tensor, DTensor) else full)
    return found


def put_back(network: nn.Module, *, keep: bool) -> None:
    """Give a network its trained parameters back as plain whole ones, on the CPU, in the processes that `keep` them.

    It can be written down then as any other, and is not to be run any more. All processes must take part.
    """
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if isinstance(parameter, DTensor) and parameter.requires_grad:
                full = whole(parameter)
                if keep:
                    module.register_parameter(name, nn.Parameter(full.cpu()))


def in_rows(tensor: Tensor) -> bool:
    """Whether a tensor is parted by its rows alone, which is what can be written and read in parts."""
    kinds = [type(placement) for placement in getattr(tensor, "placements", ())]
    return kinds.count(Shard) == 1 and set(kinds) <= {Shard, Replicate} and _row_axis(tensor) is not None


def first_row(tensor: Tensor) -> int:
    """Of this process's part, of a tensor that is `in_rows` or plain."""
    axis = _row_axis(tensor)
    if axis is None or not isinstance(tensor, DTensor):
        return 0
    mesh = tensor.device_mesh
    return min(mesh.get_local_rank(axis) * -(-len(tensor) // mesh.size(axis)), len(tensor))


def parted_like(part: Tensor, pattern: Tensor) -> Tensor:
    """The tensor of which `part` lies here, parted as `pattern` is and as large."""
    if not isinstance(pattern, DTensor):
        return part
    found: Tensor = DTensor.from_local(
        part, pattern.device_mesh, pattern.placements, run_check=False, shape=pattern.shape, stride=pattern.stride()
    )
    return found


def gather_anew(network: nn.Module) -> None:
    """Drop the whole weights that a forward pass without a backward one leaves behind: the parts were or will be
    written to."""
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@torch.no_grad()
def copy_parts(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Write tensors into others that are parted alike."""
    torch._foreach_copy_([local(target) for target in targets], [local(source) for source in sources])


def _row_axis(tensor: Tensor) -> int | None:
    """The axis of the mesh of processes along which the rows are parted."""
    placements = getattr(tensor, "placements", ())
    return next((axis for axis, placement in enumerate(placements) if placement == Shard(0)), None)
