"""Floating-point operations of a step, counted by torch on tensors that have shapes and no numbers.

A product and a sum are two. Counted are matrix products, convolutions and attention, forward and backward.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from diffdpo.models.lora import adapter_off
from diffdpo.models.memory.blank import place, without_numbers
from speed.clock import Way
from speed.models import random_model
from speed.ours import Ours
from speed.workload import Workload


@dataclass(frozen=True)
class Flops:
    """Of one pair.

    Attributes:
        forward: both images through the reference, which has no LoRA and no gradients.
        trained: forward and backward.
        remade: the same with checkpointed gradients.
        images: both through the autoencoder's encoder.
        text: the prompt through the text encoders.
    """

    forward: int
    trained: int
    remade: int
    images: int
    text: int

    @property
    def official(self) -> int:
        return self.images + self.text + self.forward + self.remade

    def ours(self, way: Ours) -> int:
        encoders = 0 if way.has("cache") else self.images + self.text
        return self.trained + self.again(way) + encoders + (0 if way.has("table") else self.forward)

    def again(self, way: Way) -> int:
        """Of those, what gradient checkpointing computes a second time."""
        kept = isinstance(way, Ours) and way.has("activations")
        return 0 if kept else self.remade - self.trained


def count_parts(workload: Workload) -> Flops:
    """The parts of a workload's step, in seconds and without memory."""
    model = random_model(workload.model, device="meta", lora_rank=workload.lora_rank, lora_alpha=1.0)
    with without_numbers(workload.device):
        vae, encoders = model.pipeline.vae, [getattr(model.pipeline, name) for name in model.text_encoders]
        for network in (model.network, vae, *encoders):
            place(network)
        tokens = torch.zeros(1, model.pipeline.tokenizer.model_max_length, dtype=torch.int64)
        edge = workload.pixels // model.pipeline.vae_scale_factor
        shapes = model.conditioning_shapes(tokens.shape[1])
        conditioning = {name: torch.zeros(2, *shape) for name, shape in shapes.items()}
        conditioning = model.add_sizes(conditioning, torch.zeros(2, 4, dtype=torch.int64), (edge, edge))
        x_t = torch.zeros(2, vae.config.latent_channels, edge, edge)
        inputs = (x_t, torch.zeros(2, dtype=torch.int64), conditioning)

        def train() -> None:
            torch.autograd.backward(model.predict(model.network, *inputs).square().mean())

        with torch.no_grad():
            with adapter_off(model.network) if workload.lora_rank else nullcontext():
                forward = _count(lambda: model.predict(model.network, *inputs))
            images = _count(lambda: vae.encode(torch.zeros(2, 3, workload.pixels, workload.pixels)))
            text = _count(lambda: [encoder(tokens) for encoder in encoders])
        trained = _count(train)
        model.network.enable_gradient_checkpointing()  # type: ignore[operator]
        return Flops(forward, trained, _count(train), images, text)


def _count(work: Callable[[], object]) -> int:
    counter = FlopCounterMode(display=False)
    with counter:
        work()
    return int(counter.get_total_flops())
