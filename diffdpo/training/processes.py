"""The processes of a run and what they compute on, as the launcher set them up: one, DDP or FSDP2."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar, cast

import torch
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy

from diffdpo.devices import pick_device
from diffdpo.errors import UserError

T = TypeVar("T")

PATIENCE = timedelta(hours=2)
"""How long processes wait for each other: one encodes, or writes the result, while the others have nothing to do."""


def new_accelerator(precision: str) -> Accelerator:
    """The processes and the device of this run.

    Raises:
        UserError: a precision that the hardware here does not have, or a way to share the weights out that is not
            FSDP2.
    """
    if precision == "fp16" and pick_device() == "cpu":
        # accelerate would train in float32 and not say so.
        raise UserError("training.precision: fp16 cannot be had here (there is no GPU); use bf16 or fp32")
    sharding = _sharding() if is_sharded() else None
    # accelerate keeps the first precision of a process for good; a second run in it may have another one.
    AcceleratorState._reset_state()
    try:
        accelerator = Accelerator(
            mixed_precision="no" if precision == "fp32" else precision,
            cpu=pick_device() == "cpu",
            fsdp_plugin=sharding,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
    except ValueError as error:
        raise UserError(f"training.precision: {precision} cannot be had here ({error}); use bf16 or fp32") from None
    if sharding is not None and accelerator.distributed_type == DistributedType.MULTI_CPU:
        # accelerate takes up FSDP on GPUs only; torch shards on a CPU just as well, and the tests do.
        accelerator.state.fsdp_plugin = sharding
        accelerator.state.distributed_type = DistributedType.FSDP
    return accelerator


def prepare(
    accelerator: Accelerator, network: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, AcceleratedOptimizer]:
    """The network to call in training, and the optimiser of its parameters. FSDP2 changes the network itself.

    Raises:
        UserError: FSDP2 cannot part the network.
    """
    scalars = [name for name, parameter in network.named_parameters() if not parameter.dim()]
    if accelerator.is_fsdp2 and scalars:
        raise UserError(f"FSDP cannot part the single number {scalars[0]} of this model; use DDP for it")
    prepared, stepping = accelerator.prepare(network, optimizer)
    return prepared, stepping


def of_the_main_process(accelerator: Accelerator, make: Callable[[], T]) -> T:
    """What `make` returns, called in one process: for what would have each of them read the same large files."""
    made: list[T | None] = [make() if accelerator.is_main_process else None]
    broadcast_object_list(made)
    return cast(T, made[0])


def part(accelerator: Accelerator, network: nn.Module) -> nn.Module:
    """A network that is only looked at, parted as the trained one is."""
    parted: nn.Module = fsdp2_prepare_model(accelerator, network) if accelerator.is_fsdp2 else network
    return parted


def is_sharded() -> bool:
    """Whether the launcher asks for the weights to be shared out (FSDP)."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("true", "1", "yes")


def count() -> int:
    """How many processes the launcher started, known before they have met."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _sharding() -> FullyShardedDataParallelPlugin:
    # Weights are gathered in the precision they are kept in, and autocast does the rest, as in one process: the
    # policy's rounding must be the reference's, and accelerate's default would round the timesteps too.
    plugin = FullyShardedDataParallelPlugin(mixed_precision_policy=MixedPrecisionPolicy(cast_forward_inputs=False))
    if plugin.fsdp_version != 2:
        raise UserError("the accelerate config asks for FSDP version 1; write fsdp_version: 2 below fsdp_config")
    return plugin
