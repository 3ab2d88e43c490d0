"""What a config leaves to the memory that is there: the size of a micro-batch, and gradient checkpointing."""

from __future__ import annotations

import dataclasses
import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from diffdpo.config import ImageConfig
from diffdpo.devices import pick_device
from diffdpo.errors import UserError
from diffdpo.models.memory.architectures import architecture_of
from diffdpo.models.memory.footprint import Tuning, footprint
from diffdpo.progress import say
from diffdpo.training import processes
from diffdpo.training.folder import record_shares, training_of
from diffdpo.training.shares import Shares

USABLE = 0.85
"""Of a device's memory: what the estimate does not count is often a tenth and more."""


class Memory(NamedTuple):
    """Bytes of a device."""

    free: int
    total: int


@dataclass(frozen=True)
class Way:
    """How a micro-step is computed, which moves what is learnt by rounding alone."""

    pairs: int
    checkpointing: bool


def settle(config: ImageConfig, size: tuple[int, int], memory: Memory | None = None) -> ImageConfig:
    """The config with each `auto` decided and `training.pairs_per_step` put into numbers; any other as it is.

    A run that goes on keeps to what was decided for it, as long as the device has that much memory.

    Args:
        size: height and width of the images trained on, in pixels.
        memory: None is this process's.

    Raises:
        UserError: the pairs of a step cannot be shared out evenly, or the model is of no shape that is known here.
    """
    training = config.training
    step = pairs_of_a_process(config)
    sizes = [n for n in range(1, step + 1) if step % n == 0] if training.batch_size == "auto" else [training.batch_size]
    options = {"auto": (False, True), False: (False,), True: (True,)}[training.gradient_checkpointing]
    way = Way(sizes[0], options[0])
    if len(sizes) * len(options) > 1:
        way = _decide(config, size, sizes, options, memory or memory_of(pick_device()))
    return _by(config, way)


def pairs_of_a_process(config: ImageConfig) -> int:
    """Pairs of an optimiser step that each process computes.

    Raises:
        UserError: there is no such number, or `training.batch_size` does not go into it.
    """
    training, n = config.training, processes.count()
    if training.pairs_per_step is None:
        return training.micro_batch * training.accumulation
    share, left = divmod(training.pairs_per_step, n)
    if left:
        raise UserError(
            f"training.pairs_per_step: {n} processes cannot share {training.pairs_per_step} evenly; "
            f"say a multiple of {n}, or start another number of processes"
        )
    if training.batch_size != "auto" and share % training.batch_size:
        raise UserError(
            f"training.batch_size: {training.batch_size} does not go into the {share} pairs that each process has in a "
            "step (training.pairs_per_step); say a number that does, or auto"
        )
    return share


def choose(sizes: Sequence[int], options: Sequence[bool], takes: Callable[[Way], float], room: float) -> Way:
    """The way to compute a micro-step in `room` bytes.

    Most pairs without checkpointing, if a single one fits so: it adds a forward pass to a forward and a backward one,
    about a third of a step's time, in which larger micro-batches gain little once a few pairs keep the device busy. (On
    a GPU the two were never measured against each other.)

    Args:
        sizes: of micro-batches, rising.
        options: of checkpointing, the better first.
        takes: bytes; more pairs take more.

    Returns:
        What fits, or else what takes least.
    """
    for checkpointing in options:
        if takes(Way(sizes[0], checkpointing)) <= room:
            fitting = bisect_right(sizes, room, key=lambda pairs: takes(Way(pairs, checkpointing)))
            return Way(sizes[fitting - 1], checkpointing)
    return Way(sizes[0], options[-1])


def refit(folder: Path, shares: Shares) -> None:
    """What `train` is to do when the memory was full: say so, and have a run that goes on begin with it."""
    say(f"the memory is full: from now on micro-batch {shares.size} (accumulation {shares.accumulation})")
    record_shares(folder, shares)


def tuning_of(config: ImageConfig, size: tuple[int, int]) -> Tuning:
    """A settled config, as far as memory knows."""
    training = config.training
    sides = 1 if config.method == "sft" else 2  # losers are not trained on
    return Tuning(
        images=sides * training.micro_batch,
        size=size,
        lora_rank=config.lora.rank,
        copy=config.model.reference == "copy",
        ema=training.ema is not None,
        optimizer=training.optimizer,
        precision=training.precision,
        checkpointing=bool(training.gradient_checkpointing),
        gpu=pick_device().startswith("cuda"),
        max_sequence_length=config.model.max_sequence_length,
    )


def memory_of(device: str | torch.device) -> Memory:
    """That of a GPU for this process; of a CPU its part of the machine's, all of which counts as free."""
    if torch.device(device).type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Memory(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device), total)
    own = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // processes.count()
    return Memory(own, own)


def least_memory(accelerator: Accelerator) -> Memory:
    """The least that any process has; all of them must ask."""
    free, total = zip(*gather_object([memory_of(accelerator.device)]), strict=True)
    return Memory(min(free), min(total))


def _decide(
    config: ImageConfig, size: tuple[int, int], sizes: Sequence[int], options: Sequence[bool], memory: Memory
) -> Way:
    path = config.model.path
    architecture = architecture_of(path)
    if architecture is None:
        auto = {"batch_size": "a number"} if len(sizes) > 1 else {}
        auto |= {"gradient_checkpointing": "true or false"} if len(options) > 1 else {}
        keys, instead = " and training.".join(auto), " and ".join(auto.values())
        raise UserError(f"training.{keys}: auto cannot tell what {path} takes; say {instead}")

    @cache
    def estimate(way: Way) -> int:
        return footprint(architecture, tuning_of(_by(config, way), size), path).total

    def at_least(way: Way) -> int:
        """As if each further pair took what the second does: an estimate of SDXL takes seconds."""
        one = estimate(Way(1, way.checkpointing))
        return one if way.pairs == 1 else one + (way.pairs - 1) * (estimate(Way(2, way.checkpointing)) - one)

    # By all of the memory: what is free of it changes, and a run must go on as it began.
    before = training_of(Path(config.output))
    way = Way(before.get("batch_size", 0), before.get("gradient_checkpointing", False))
    if way.pairs in sizes and way.checkpointing in options and estimate(way) <= USABLE * memory.total:
        return way
    room = USABLE * memory.free
    way = choose(sizes, options, at_least, room)
    while estimate(way) > room and way.pairs > sizes[0]:  # with checkpointing many pairs take more than in proportion
        way = dataclasses.replace(way, pairs=sizes[bisect_left(sizes, way.pairs) - 1])
    settled = _by(config, way).training
    say(
        f"micro-batch {way.pairs} (accumulation {settled.accumulation}), gradient checkpointing "
        f"{'on' if way.checkpointing else 'off'}: about {estimate(way) / 1e9:.1f} of {memory.free / 1e9:.1f} GB"
        + ("" if estimate(way) <= room else ", which may be too much; nothing takes less")
    )
    return way


def _by(config: ImageConfig, way: Way) -> ImageConfig:
    training = dataclasses.replace(
        config.training,
        batch_size=way.pairs,
        accumulation=pairs_of_a_process(config) // way.pairs,
        gradient_checkpointing=way.checkpointing,
        pairs_per_step=None,
    )
    return dataclasses.replace(config, training=training)
