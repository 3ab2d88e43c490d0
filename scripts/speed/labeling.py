"""Ways to label: `diffdpo label`'s own code, whole and with one thing changed, and the loop one would write first."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass, field
from typing import Any

import torch
from bench_scorers import one_by_one
from PIL import Image

from diffdpo.commands.judges import load_scorers
from diffdpo.data.prompts import Prompt
from diffdpo.labeling.shards import candidates_of
from diffdpo.labeling.stages import Labeling, label
from diffdpo.models import sampling as drawing
from diffdpo.models.compiled import compile_blocks
from diffdpo.models.sampling import Sampling, computes_in_half, denoiser, generate, load_pipeline
from diffdpo.shapes.scene import sample_captions
from diffdpo.shapes.weights import resolve_model
from speed.models import MODELS, random_model


@dataclass
class Source:
    """An `ImageSource` over a pipeline that is open. Keeps what was drawn since it was last emptied."""

    pipeline: Any
    sampling: Sampling
    apart: bool
    name: str = "benchmark"
    settings: dict[str, Any] = field(default_factory=dict)
    drawn: list[Image.Image] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.batch_size = self.sampling.batch_size

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        images = generate(self.pipeline, prompts, seeds, self.sampling)
        self.drawn += images
        return images


class Bench:
    """What is labelled, by what, and how; the same for every way."""

    def __init__(
        self, model: str, scorers: Sequence[str], how: Labeling, sampling: Sampling, *, prompts: int, device: str,
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        pipeline = open_pipeline(model, device, dtype)
        apart = device.startswith("cuda") and computes_in_half(pipeline)
        self.source = Source(pipeline, sampling, apart)
        self.judges = load_scorers(scorers, device)
        self.how = how
        self.prompts = [Prompt.of(text) for text in sample_captions(prompts, seed=0, held_out=False)]

    @property
    def images(self) -> int:
        return len(self.prompts) * self.how.candidates

    def warm_up(self) -> None:
        """So that nobody's clock runs while a library is at its first call."""
        texts = [self.prompts[0].text]
        images = generate(self.source.pipeline, texts, [0], self.source.sampling)
        for judge in self.judges:
            judge.score(texts, images)


def open_pipeline(model: str, device: str, dtype: torch.dtype) -> Any:
    """One of `MODELS` with random weights, or as `diffdpo label` opens it."""
    if model not in MODELS:
        return load_pipeline(resolve_model(model), device=device, dtype=dtype)
    pipeline = random_model(model, device=device).pipeline.to(dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    if dtype != torch.float32:
        pipeline.unet.to(memory_format=torch.channels_last)  # as `load_pipeline` does
    return pipeline


Change = Callable[[Bench], AbstractContextManager[Any]]


class Ours:
    """Generate, score, pair and write, as `diffdpo label` does, into a folder that is thrown away."""

    def __init__(self, bench: Bench, name: str = "", change: Change = nullcontext) -> None:
        self.bench, self.change = bench, change
        self.name = f"ours, {name}" if name else "ours"
        self.images: list[Image.Image] = []

    def open(self) -> None:
        for judge in self.bench.judges:
            getattr(judge, "_cache", {}).clear()  # or it would know the prompts from the way before
        self.opened = ExitStack()
        self.folder = self.opened.enter_context(tempfile.TemporaryDirectory())
        self.opened.enter_context(self.change(self.bench))
        self.opened.enter_context(redirect_stderr(io.StringIO()))

    def close(self) -> None:
        self.opened.close()

    def step(self, number: int) -> None:
        bench = self.bench
        bench.source.drawn.clear()
        label(bench.prompts, f"{self.folder}/{number}", bench.source, bench.judges, bench.how)
        self.images = list(bench.source.drawn)


class Plain:
    """A loop over the plain pipeline, and one image per pass through each scorer. Pairs and writes nothing.

    Args:
        together: a prompt's candidates in one call of the pipeline, instead of one call per image.
    """

    def __init__(self, bench: Bench, *, together: bool) -> None:
        self.bench, self.at_once = bench, bench.how.candidates if together else 1
        self.name = f"plain pipeline, {'one prompt' if together else 'one image'} per call"
        self.images: list[Image.Image] = []

    def open(self) -> None:
        self.opened = contiguous(self.bench)
        self.opened.__enter__()

    def close(self) -> None:
        self.opened.__exit__(None, None, None)

    def step(self, number: int) -> None:
        candidates = candidates_of(self.bench.prompts, self.bench.how)
        sampling, texts = self.bench.source.sampling, [one.prompt.text for one in candidates]
        self.images = []
        for start in range(0, len(candidates), self.at_once):
            some = candidates[start : start + self.at_once]
            self.images += self.bench.source.pipeline(
                some[0].prompt.text,
                num_images_per_prompt=len(some),
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance,
                height=sampling.size,
                width=sampling.size,
                generator=[torch.Generator("cpu").manual_seed(one.seed) for one in some],
            ).images
        for judge in self.bench.judges:
            OneByOne(judge).score(texts, self.images)


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
        for block in network.modules():
            block._compiled_call_impl = None


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
