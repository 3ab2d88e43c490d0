"""What a scorer is, and the one scoring loop that all local models share.

A new scorer is a `BatchScorer` with three small functions: prepare one image, encode some prompts, compare
a batch. Batching, threads, the text cache, checks and the precision guard live here.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from scorers.errors import ScorerError
from scorers.images import to_rgb
from scorers.precision import dtype_name, exact_precision, resolve_device, resolve_dtype

CACHED_PROMPTS = 1024
"""Encoded prompts kept from one call to the next."""

BATCHES_AHEAD = 2
"""Batches of images prepared while the model runs. Bounded, so that memory does not grow with the call."""


@runtime_checkable
class Scorer(Protocol):
    """What `scorers.load` returns and what the rest of a program may rely on."""

    name: str
    scale: str
    """The score's range and unit, in words."""
    settings: dict[str, Any]
    """All that can move a score (model, dtype, preprocessing), ready for JSON."""

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> Tensor:
        """One score per pair of prompt and image: Tensor [N] float32 on the CPU, higher is better."""
        ...


class BatchScorer(ABC):
    """A local model that scores images in batches."""

    name: str
    scale: str

    def __init__(
        self,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype | None = None,
        batch_size: int = 32,
        workers: int | None = None,
    ) -> None:
        """`batch_size`: images per forward pass. `workers`: threads preparing images (None: one per CPU)."""
        for option, value in (("batch_size", batch_size), ("workers", workers)):
            if value is not None and value < 1:
                raise ScorerError(f"{option} must be at least 1, not {value}")
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype)
        self.batch_size = batch_size
        self.workers = workers or min(8, os.cpu_count() or 1)
        self.settings: dict[str, Any] = {"scorer": self.name, "dtype": dtype_name(self.dtype)}
        self._cache: dict[str, Tensor] = {}

    @abstractmethod
    def prepare(self, image: Image.Image) -> Tensor:
        """An upright RGB image -> the model's input, float32 [3, S, S]. Runs in threads: no state."""

    @abstractmethod
    def compare(self, pixels: Tensor, texts: Tensor) -> Tensor:
        """Prepared images [B, 3, S, S] and encoded prompts [B, ...], both on the device -> scores [B]."""

    def encode(self, prompts: list[str]) -> Tensor:
        """Prompts -> one row each, [n, ...], on the device. A scorer that reads no text keeps this."""
        return torch.zeros(len(prompts), 0, device=self.device)

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> Tensor:
        """One score per pair of prompt and image: Tensor [N] float32 on the CPU, in units of `scale`."""
        _check_pairs(prompts, images)
        if not len(images):
            return torch.zeros(0)
        scores: list[Tensor] = []
        with exact_precision(self.device, self.dtype):
            rows = self.encoded(prompts)
            for start, pixels in self._prepared(images):
                texts = torch.stack([rows[prompt] for prompt in prompts[start : start + len(pixels)]])
                with torch.inference_mode():
                    scores.append(self.compare(pixels.to(self.device), texts).float())
        result = torch.cat(scores).cpu().clone()
        if not result.isfinite().all():
            first = int((~result.isfinite()).nonzero()[0])
            raise ScorerError(
                f"{self.name} gave {result[first].item()} for image {first}: the weights are damaged or "
                f"{self.settings['dtype']} overflows"
            )
        return result

    def encoded(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Each distinct prompt -> its row of `encode`, computed once and kept for later calls."""
        rows = {prompt: self._cache[prompt] for prompt in prompts if prompt in self._cache}
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in rows]
        with torch.inference_mode():
            for start in range(0, len(missing), self.batch_size):
                chunk = missing[start : start + self.batch_size]
                rows.update(zip(chunk, (row.clone() for row in self.encode(chunk)), strict=True))
        recent = {prompt: row for prompt, row in self._cache.items() if prompt not in rows} | rows
        self._cache = dict(list(recent.items())[-CACHED_PROMPTS:])
        return rows

    def _prepared(self, images: Sequence[Image.Image]) -> Iterator[tuple[int, Tensor]]:
        """(index of the batch's first image, batch [B, 3, S, S]) in order, prepared a few batches ahead."""
        repeated = {key for key, count in Counter(map(id, images)).items() if count > 1}
        waiting: deque[tuple[int, list[Future[Tensor]]]] = deque()
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                for start in range(0, len(images), self.batch_size):
                    batch = range(start, min(start + self.batch_size, len(images)))
                    # PIL decodes a file on first use and two threads must not do that to one image.
                    for index in batch:
                        if id(images[index]) in repeated:
                            _load(images[index], index)
                    futures = [pool.submit(self._prepare, images[index], index) for index in batch]
                    waiting.append((start, futures))
                    if len(waiting) > BATCHES_AHEAD:
                        yield _stacked(waiting.popleft())
                while waiting:
                    yield _stacked(waiting.popleft())
            finally:
                pool.shutdown(cancel_futures=True)  # after an error, do not prepare what nobody will read

    def _prepare(self, image: Image.Image, index: int) -> Tensor:
        try:
            return self.prepare(to_rgb(image))
        except ScorerError as error:
            raise ScorerError(f"image {index}: {error}") from error


def _stacked(batch: tuple[int, list[Future[Tensor]]]) -> tuple[int, Tensor]:
    start, futures = batch
    return start, torch.stack([future.result() for future in futures])


def _load(image: Image.Image, index: int) -> None:
    try:
        image.load()
    except (OSError, SyntaxError) as error:
        raise ScorerError(f"image {index}: the image cannot be read: {error}") from error


def _check_pairs(prompts: Sequence[str], images: Sequence[Image.Image]) -> None:
    if isinstance(prompts, str):
        raise ScorerError("prompts is one string: give a list with one prompt for each image")
    if len(prompts) != len(images):
        raise ScorerError(f"{len(prompts)} prompts and {len(images)} images: give one prompt for each image")
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise ScorerError(f"prompt {index} is {type(prompt).__name__}, not str")
