"""Our way through a step: the loop and the recipe that `diffdpo train` runs, with parts of it switched off or on."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from diffdpo.config import DpoConfig
from diffdpo.data.latents import Batch, LatentCache
from diffdpo.models.protocol import Conditioning, Predict
from diffdpo.training.heap import freed_memory_kept
from diffdpo.training.image.dpo import DiffusionDpo
from diffdpo.training.image.methods import make_recipe
from diffdpo.training.image.reference import ReferenceTable
from diffdpo.training.loop import _Training
from diffdpo.training.processes import new_accelerator
from speed.models import put_back, take_encoders, uncompile
from speed.workload import Bench, Workload

DEFAULT = {
    "cache": "latents and prompt embeddings are encoded before training",
    "activations": "activations are kept: no gradient checkpointing",
    "fused": "the optimiser's fused kernels",
    "metrics": "figures are fetched when a line is written, not in every step",
    "heap": "on a CPU, memory that is freed stays with the process",
    "attention": "plain products on short sequences of a CPU, unless gradients are checkpointed",
    "layout": "channels_last on a GPU or in bf16",
    "together": "winner and loser in one forward pass",
    "adapter": "with a LoRA the reference is the network with the adapter off, not a second one",
}
"""What can be switched off."""
EXTRA = {
    "table": "the reference's errors come from a table, made before training",
    "prefetch": "a thread prepares two micro-batches ahead",
    "compiled": "torch compiles the network's blocks",
}
"""What can be switched on."""


def there(name: str, workload: Workload) -> bool:
    """Whether one of `DEFAULT` does anything in that workload."""
    gpu = workload.device == "cuda"
    needs = {"heap": not gpu, "attention": not gpu, "layout": half(workload), "adapter": workload.lora_rank > 0}
    return needs.get(name, True)


def half(workload: Workload) -> bool:
    return workload.precision == "bf16" or workload.device == "cuda"


class Ours:
    """One `step` is a micro-step, and an optimiser step too unless the workload says otherwise.

    Args:
        without, extra: of `DEFAULT` and of `EXTRA`.
        steps: that a table is made for.

    Attributes:
        table_seconds: what the reference pass took per pair and draw, of the processor where that computes; None
            without a table.
    """

    def __init__(self, bench: Bench, *, without: Sequence[str] = (), extra: Sequence[str] = (), steps: int = 8) -> None:
        self.bench, self.workload, self.model = bench, bench.workload, bench.model
        self.off, self.extra, self.steps = frozenset(without), frozenset(extra), steps
        self._open = ExitStack()
        changes = [f"with {name}" for name in extra] + [f"without {name}" for name in without]
        self.name = ", ".join(["ours", *changes])
        self.table_seconds: float | None = None

    def has(self, name: str) -> bool:
        return name in self.extra if name in EXTRA else name not in self.off

    def open(self) -> None:
        if self.has("heap"):
            self._open.enter_context(freed_memory_kept(torch.device(self.workload.device)))
        self._set_kernels()
        network: Any = self.model.network
        if not self.has("activations"):
            network.enable_gradient_checkpointing()
        self.encoders = take_encoders(self.model) if self.has("cache") else {}
        recipe = self._recipe()
        config = self._config().training
        self.training = _Training(
            recipe, config, self.workload.seed, "", self.bench.folder, new_accelerator(config.precision), ()
        )
        if not self.has("fused"):
            for group in self.training.optimizer.param_groups:
                group.update(fused=None, foreach=None)
            self.training.optimizer.optimizer._step_supports_amp_scaling = False

    def close(self) -> None:
        network: Any = self.model.network
        network.disable_gradient_checkpointing()
        for parameter in self.training.parameters:
            parameter.grad = None
        del self.training
        for name in ("_attention_kernel", "predict"):
            self.model.__dict__.pop(name, None)
        if self.has("compiled"):
            uncompile(self.model.network)
            self.model._backend = None
        put_back(self.model, self.encoders)
        self._open.close()

    def step(self, number: int) -> float | Tensor:
        if self.workload.update:
            loss = self.training._step(number)["loss"]
        else:
            loss = self.training.gradient.add(self.bench.order.at(number))[0]
        return loss if self.has("metrics") else loss.item()

    def _config(self) -> DpoConfig:
        return self.workload.config(prefetch=2 if self.has("prefetch") else 0)

    def _recipe(self) -> DiffusionDpo:
        config = self._config()
        cache: Any = self.bench.cache if self.has("cache") else LiveCache(self.bench)
        rows = list(range(len(self.bench.store)))
        reference = self._reference()
        recipe = make_recipe(config, self.model, cache, rows, [], torch.device(self.workload.device), reference)
        assert isinstance(recipe, DiffusionDpo)
        if self.has("table"):
            recipe.use(self._table(recipe, len(rows)))
        return recipe

    def _table(self, recipe: DiffusionDpo, n: int) -> ReferenceTable:
        """The reference's errors of the first `steps` steps."""
        order = self.bench.order
        errors = torch.full((self.steps * order.batch // n + 1, n, 2), float("nan"))
        accelerator = new_accelerator(self.workload.precision)
        clock = time.perf_counter if self.workload.device == "cuda" else time.process_time
        start = clock()
        for number in range(self.steps):
            indices, epochs = zip(*order.at(number), strict=True)
            with accelerator.autocast():
                errors[list(epochs), list(indices)] = recipe.compute_reference(order.at(number)).cpu()
        self.table_seconds = (clock() - start) / (self.steps * order.batch)
        return ReferenceTable(errors, torch.zeros(0, 2))

    def _reference(self) -> Predict | None:
        """None is the model's own."""
        if self.workload.one_copy or self.has("table"):
            return partial(self.model.predict, self.model.network)
        if self.workload.lora_rank and not self.has("adapter"):
            frozen: Any = copy.deepcopy(self.model.network).requires_grad_(False).eval()
            frozen.unload_lora()
            return partial(self.model.predict, frozen)
        return None

    def _set_kernels(self) -> None:
        layout = torch.channels_last if half(self.workload) and self.has("layout") else torch.contiguous_format
        self.model.memory_format = layout
        self.model.network.to(memory_format=layout)
        if not self.has("attention"):
            self.model.__dict__["_attention_kernel"] = lambda x_t: nullcontext()
        if not self.has("together"):
            self.model.__dict__["predict"] = partial(one_side_at_a_time, self.model.predict)
        if self.has("compiled"):
            self.model.compile_blocks()


def one_side_at_a_time(
    predict: Callable[..., Tensor], network: nn.Module, x_t: Tensor, timesteps: Tensor, conditioning: Conditioning
) -> Tensor:
    """A batch of winners and then losers, in two forward passes."""
    sides = [{name: given.chunk(2)[side] for name, given in conditioning.items()} for side in (0, 1)]
    parts = zip(x_t.chunk(2), timesteps.chunk(2), sides, strict=True)
    return torch.cat([predict(network, *part) for part in parts])


class LiveCache:
    """In place of a cache: everything is encoded when it is asked for."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bench.cache, name)

    def batch(self, rows: Sequence[int], views: Sequence[int] | None = None) -> Batch:
        cache: LatentCache = self.bench.cache
        kept, model = cache.batch(rows, views), self.bench.model
        images = [Image.fromarray(self.bench.images[row, side]) for side in (0, 1) for row in rows]
        mean, std = model.encode_images(images)
        conditioning = model.encode_prompts([self.bench.store.captions[row] for row in rows])
        (mean_w, mean_l), (std_w, std_l) = mean.chunk(2), std.chunk(2)
        return dataclasses.replace(
            kept, mean_w=mean_w, mean_l=mean_l, std_w=std_w, std_l=std_l, conditioning=conditioning
        )
