"""What a config leaves to the memory that is there."""

from __future__ import annotations

import dataclasses
import os

import torch

from diffdpo.config import ImageConfig
from diffdpo.devices import pick_device
from diffdpo.errors import UserError
from diffdpo.models.memory.architectures import architecture_of
from diffdpo.models.memory.footprint import Tuning, footprint
from diffdpo.progress import say

USABLE = 0.85
"""Of a device's memory: what the estimate does not count is often a tenth and more."""


def settle_checkpointing(config: ImageConfig, size: tuple[int, int]) -> ImageConfig:
    """The config with `training.gradient_checkpointing: auto` decided; any other as it is.

    Decided by all the memory of the device, not by what is free of it, so that a run that goes on decides alike.

    Args:
        size: height and width of the images trained on, in pixels.

    Raises:
        UserError: the model is of no shape that is known here.
    """
    if config.training.gradient_checkpointing != "auto":
        return config
    plain = _with_checkpointing(config, False)
    architecture = architecture_of(config.model.path)
    if architecture is None:
        raise UserError(
            f"training.gradient_checkpointing: auto cannot tell what {config.model.path} takes; say true or false"
        )
    needed = footprint(architecture, tuning_of(plain, size), config.model.path).total
    there = USABLE * memory_of(pick_device())
    fits = needed <= there
    say(
        f"gradient checkpointing {'off' if fits else 'on'}: about {needed / 1e9:.1f} of {there / 1e9:.1f} GB without it"
    )
    return plain if fits else _with_checkpointing(config, True)


def tuning_of(config: ImageConfig, size: tuple[int, int]) -> Tuning:
    """A config, as far as memory knows."""
    training = config.training
    sides = 1 if config.method == "sft" else 2  # losers are not trained on
    return Tuning(
        images=sides * training.batch_size,
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


def memory_of(device: str) -> int:
    """All bytes of a device; of a CPU those of the machine."""
    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _with_checkpointing(config: ImageConfig, on: bool) -> ImageConfig:
    return dataclasses.replace(config, training=dataclasses.replace(config.training, gradient_checkpointing=on))
