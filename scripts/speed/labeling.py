"""Ways to label: `diffdpo label`'s own code, and the loop one would write first."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext, redirect_stderr
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from diffdpo.commands.judges import load_scorers
from diffdpo.data.prompts import Prompt
from diffdpo.labeling.shards import candidates_of
from diffdpo.labeling.stages import Labeling, label
from diffdpo.models.sampling import Sampling, computes_in_half, generate, load_pipeline
from diffdpo.shapes.scene import sample_captions
from diffdpo.shapes.weights import resolve_model
from speed.changes import Change, OneByOne, contiguous
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
