"""What tuning a network takes of memory, part by part, from its architecture alone: an estimate made in seconds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from diffdpo.models.memory.activations import Activations, activations
from diffdpo.models.memory.architectures import Architecture
from diffdpo.models.memory.blank import blank_inputs, blank_model, place, without_numbers
from diffdpo.models.pipeline_model import PipelineModel
from diffdpo.models.protocol import trainable

FLOAT32 = 4
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
BLOCK_8BIT, SMALLEST_8BIT = 256, 4096
"""bitsandbytes: values that share a float32 scale, and the size below which a tensor's moments stay float32."""


@dataclass(frozen=True)
class Tuning:
    """How a network is trained, as far as memory knows.

    Args:
        images: that pass the network at once, winners and losers.
        size: height and width in pixels; None is what the network was made for.
        lora_rank: 0 trains the whole network.
        copy: a frozen second network is the reference.
        ema: a running average of the trained weights is kept.
        optimizer, precision: as in the `training` section.
        gpu: on one, or on a CPU.
        max_sequence_length: tokens that T5 reads; None is the family's own.
    """

    images: int
    size: tuple[int, int] | None = None
    lora_rank: int = 0
    copy: bool = False
    ema: bool = False
    optimizer: str = "adamw"
    precision: str = "fp32"
    checkpointing: bool = False
    gpu: bool = True
    max_sequence_length: int | None = None

    @property
    def device(self) -> str:
        return "cuda" if self.gpu else "cpu"


@dataclass(frozen=True)
class Footprint:
    """Bytes. Not in it: what a kernel needs while it runs, the gradients of activations on their way back, the
    encoders (which leave before training), the driver's own, and what lies unused between tensors."""

    network: int
    adapter: int
    gradients: int
    optimizer: int
    average: int
    reference: int
    activations: int
    passing: int
    """With gradient checkpointing: the largest block's activations, made again in the backward pass, or what is more of
    it, autocast's copies of the weights in half precision, which then are let go after the forward pass."""

    @property
    def parts(self) -> dict[str, int]:
        return {name: value for name, value in vars(self).items() if value}

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def footprint(architecture: Architecture, tuning: Tuning, path: str = "") -> Footprint:
    """The memory of one process at the end of a micro-step's forward pass, before its gradients make room.

    Weights, gradients, optimiser and average are counted exactly; activations are what autograd keeps, counted on a
    network without numbers (see `blank`), in the dtypes that autocast gives them on that device.

    Raises:
        UserError: the architecture's family is not here, or images of that size cannot be trained on.
    """
    model = _blank(architecture, tuning, path)
    trained = trainable(model.network)
    held = sum(tensor.nbytes for tensor in (*model.network.parameters(), *model.network.buffers()))
    adapter = sum(parameter.nbytes for parameter in trained) if tuning.lora_rank else 0
    numbers = sum(parameter.numel() for parameter in trained)
    shapes = [parameter.shape for parameter in trained]
    casts = numbers * FLOAT32 // 2 if tuning.precision in HALVES else 0
    kept = _activations(model, architecture, tuning)
    return Footprint(
        network=held - adapter,
        adapter=adapter,
        gradients=FLOAT32 * numbers,
        optimizer=optimizer_bytes(tuning.optimizer, shapes),
        average=FLOAT32 * numbers if tuning.ema else 0,
        reference=held if tuning.copy else 0,
        activations=kept.kept,
        passing=max(kept.block, casts) if tuning.checkpointing else 0,
    )


def optimizer_bytes(name: str, shapes: Sequence[torch.Size]) -> int:
    """What `training.optimizer` keeps of parameters of these shapes. `adamw8bit` is by bitsandbytes' description."""
    state = {"adamw": _adamw, "adafactor": _adafactor, "adamw8bit": _adamw8bit}[name]
    return sum(state(shape) for shape in shapes)


def _adamw(shape: torch.Size) -> int:
    return FLOAT32 * (2 * shape.numel() + 1)  # two moments and the number of steps


def _adafactor(shape: torch.Size) -> int:
    if len(shape) < 2:
        return FLOAT32 * (shape.numel() + 1)
    return FLOAT32 * (shape.numel() // shape[-1] + shape.numel() // shape[-2] + 1)


def _adamw8bit(shape: torch.Size) -> int:
    values = shape.numel()
    if values < SMALLEST_8BIT:
        return 2 * FLOAT32 * values
    return 2 * (values + FLOAT32 * math.ceil(values / BLOCK_8BIT))


def _blank(architecture: Architecture, tuning: Tuning, path: str) -> PipelineModel:
    """As `training.image.inputs.load_model` would open it."""
    half = HALVES.get(tuning.precision, torch.float32)
    return blank_model(
        architecture,
        path,
        lora_rank=tuning.lora_rank,
        lora_alpha=float(tuning.lora_rank),
        channels_last=tuning.gpu or tuning.precision == "bf16",
        frozen_dtype=half if tuning.gpu else torch.float32,
        max_sequence_length=tuning.max_sequence_length,
    )


def _activations(model: PipelineModel, architecture: Architecture, tuning: Tuning) -> Activations:
    own = architecture.network.get("sample_size") or 128  # Flux's network has none; its pipeline's is 128
    edge = own * architecture.pixels_per_latent
    size = tuning.size or (edge, edge)
    model.check_size(*size)
    with without_numbers(tuning.device), autocast(tuning.device, tuning.precision):
        place(model.network)
        inputs = blank_inputs(model, architecture, tuning.images, size)
        return activations(
            model.network, lambda: model.predict(model.network, *inputs), checkpointing=tuning.checkpointing
        )


@contextmanager
def autocast(device: str, precision: str) -> Iterator[None]:
    """As `torch.autocast`, which switches itself off where there is no GPU."""
    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    if precision in HALVES:
        torch.set_autocast_enabled(device, True)
        torch.set_autocast_dtype(device, HALVES[precision])
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])


def parameters(architecture: Architecture, lora_rank: int = 0) -> tuple[int, int]:
    """How many parameters the network has, and how many of them, or of its adapter, are trained."""
    network = blank_model(architecture, "", lora_rank=lora_rank, lora_alpha=1.0).network
    trained = sum(parameter.numel() for parameter in trainable(network))
    return sum(parameter.numel() for parameter in network.parameters()) - (trained if lora_rank else 0), trained
