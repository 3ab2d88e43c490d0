"""What labelling can do without, or with, one thing at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from bench_scorers import one_by_one
from PIL import Image

from diffdpo.models import sampling as drawing
from diffdpo.models.compiled import compile_blocks
from diffdpo.models.sampling import denoiser
from speed.models import uncompile

if TYPE_CHECKING:
    from speed.labeling import Bench

Change = Callable[["Bench"], AbstractContextManager[Any]]


class OneByOne:
    """A scorer that takes one image at a time and forgets its prompts."""

    def __init__(self, judge: Any) -> None:
        self.judge, self.name, self.scale, self.settings = judge, judge.name, judge.scale, judge.settings

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> torch.Tensor:
        scores: torch.Tensor = one_by_one(self.judge, list(prompts), list(images))
        return scores.cpu()


def changes(bench: Bench, *, compiled: bool) -> dict[str, Change]:
    """What ours can do without, or with, on this device: each alone."""
    pipeline = bench.source.pipeline
    found: dict[str, Change] = {
        "one image drawn at a time": lambda bench: _put(bench.source, "batch_size", 1),
        "autoencoder sliced": sliced,
        "scored one by one": lambda bench: _put(bench, "judges", [OneByOne(judge) for judge in bench.judges]),
        "without overlap" if bench.source.apart else "with overlap": lambda bench: _put(
            bench.source, "apart", not bench.source.apart
        ),
    }
    if hasattr(pipeline, "unet") and bench.source.sampling.guidance > 1:
        found["guidance in two passes"] = two_passes
    if pipeline.dtype != torch.float32:
        found["without channels_last"] = contiguous
    if pipeline.device.type == "cpu":
        found["the library's own attention"] = lambda bench: _put(
            drawing, "attention_kernel", lambda *arguments: nullcontext()
        )
    return found | ({"compiled": with_compiled_blocks} if compiled else {})


@contextmanager
def two_passes(bench: Bench) -> Iterator[None]:
    """Every call of the denoiser in two halves: without the prompt, and with it."""
    network = denoiser(bench.source.pipeline)
    whole = network.forward

    def call(sample: torch.Tensor, timestep: Any, **given: Any) -> tuple[torch.Tensor]:
        parts = [
            whole(one, timestep, **{key: _half(value, index) for key, value in given.items()})[0]
            for index, one in enumerate(sample.chunk(2))
        ]
        return (torch.cat(parts),)

    with _put(network, "forward", call):
        yield


@contextmanager
def sliced(bench: Bench) -> Iterator[None]:
    bench.source.pipeline.vae.enable_slicing()
    try:
        yield
    finally:
        bench.source.pipeline.vae.disable_slicing()


@contextmanager
def contiguous(bench: Bench) -> Iterator[None]:
    """The denoiser as the library opens it. In float32 it is so anyway."""
    network: Any = denoiser(bench.source.pipeline)
    before = torch.contiguous_format
    if any(weight.ndim == 4 and not weight.is_contiguous() for weight in network.parameters()):
        before = torch.channels_last
    network.to(memory_format=torch.contiguous_format)
    try:
        yield
    finally:
        network.to(memory_format=before)


@contextmanager
def with_compiled_blocks(bench: Bench) -> Iterator[None]:
    network = denoiser(bench.source.pipeline)
    compile_blocks(network)
    try:
        yield
    finally:
        uncompile(network)


def _half(value: Any, index: int) -> Any:
    if isinstance(value, dict):
        return {key: _half(one, index) for key, one in value.items()}
    return value.chunk(2)[index] if isinstance(value, torch.Tensor) else value


@contextmanager
def _put(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Within, `owner.name` is `value`."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
