"""What a scorer is, and the one scoring loop that all local models share.

A new scorer is a `BatchScorer` with a few small functions: prepare one image, encode some prompts, compare
a batch. Batching, threads, the text cache, checks and the precision guard live here.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Hashable, Iterator, Sequence
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
        self.truncated_prompts = 0
        """Prompts that were longer than the model reads, counted when they are encoded."""
        self._cache: dict[str, Tensor] = {}

    @property
    def preparation(self) -> Hashable:
        """Equal for scorers whose `prepare` does the same, so that they can be scored together."""
        return id(self)

    @property
    def encoder(self) -> Hashable:
        """Equal for scorers whose `features` does the same, so that it runs once for all of them."""
        return id(self)

    @abstractmethod
    def prepare(self, image: Image.Image) -> Tensor:
        """An upright RGB image -> the model's input, float32 [3, S, S]. Runs in threads: no state."""

    def features(self, pixels: Tensor) -> Tensor:
        """Prepared images [B, 3, S, S] on the device -> what `compare` reads, [B, ...]: the costly pass.

        A scorer that has no image encoder of its own keeps this and compares the pixels.
        """
        return pixels

    @abstractmethod
    def compare(self, features: Tensor, texts: Tensor) -> Tensor:
        """Features of images [B, ...] and encoded prompts [B, ...], both on the device -> scores [B]."""

    def encode(self, prompts: list[str]) -> Tensor:
        """Prompts -> one row each, [n, ...], on the device. A scorer that reads no text keeps this."""
        return torch.zeros(len(prompts), 0, device=self.device)

    def overlong(self, prompts: list[str]) -> int:
        """How many of `prompts` `encode` has to cut."""
        return 0

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> Tensor:
        """One score per pair of prompt and image: Tensor [N] float32 on the CPU, in units of `scale`."""
        return score_group([self], prompts, images)[0]

    def encoded(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Each distinct prompt -> its row of `encode`, computed once and kept for later calls."""
        rows = {prompt: self._cache[prompt] for prompt in prompts if prompt in self._cache}
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in rows]
        with torch.inference_mode():
            for start in range(0, len(missing), self.batch_size):
                chunk = missing[start : start + self.batch_size]
                self.truncated_prompts += self.overlong(chunk)
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


class RewardScorer(BatchScorer):
    """A local model whose score is also differentiable in the pixels."""

    @abstractmethod
    def fit(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, H, W] in 0..1 -> the model's input [B, 3, S, S], by differentiable operations."""

    def reward(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores [B] float32 on the scorer's device, differentiable in `pixels` [B, 3, H, W] (0..1, RGB).

        Text gets no gradient and the weights are frozen. Only the image path differs from `score`: see `fit`.
        """
        _check_prompts(prompts)
        if pixels.ndim != 4 or pixels.shape[1] != 3 or len(pixels) != len(prompts):
            given = f"{list(pixels.shape)} and {len(prompts)}"
            raise ScorerError(f"reward takes pixels [B, 3, H, W] and B prompts, not {given}")
        with exact_precision(self.device, self.dtype):
            texts = _rows(self.encoded(prompts), prompts)
            return self.compare(self.features(self.fit(pixels.to(self.device, torch.float32))), texts)


def score_group(scorers: Sequence[BatchScorer], prompts: Sequence[str], images: Sequence[Image.Image]) -> list[Tensor]:
    """The scores [N] of each of `scorers`, which must agree in `preparation` and `batch_size`.

    Each image is prepared once, and each batch passes once through every distinct `encoder`.
    """
    _check_pairs(prompts, images)
    if not len(images):
        return [torch.zeros(0) for _ in scorers]
    encoded = []
    for scorer in scorers:
        with exact_precision(scorer.device, scorer.dtype):
            encoded.append(scorer.encoded(prompts))
    scores: list[list[Tensor]] = [[] for _ in scorers]
    for start, pixels in scorers[0]._prepared(images):
        batch, features = prompts[start : start + len(pixels)], dict[Hashable, Tensor]()
        for scorer, rows, found in zip(scorers, encoded, scores, strict=True):
            with exact_precision(scorer.device, scorer.dtype), torch.inference_mode():
                if scorer.encoder not in features:
                    features[scorer.encoder] = scorer.features(pixels.to(scorer.device))
                found.append(scorer.compare(features[scorer.encoder], _rows(rows, batch)).float())
    return [_finite(scorer, torch.cat(found)) for scorer, found in zip(scorers, scores, strict=True)]


def _rows(rows: dict[str, Tensor], prompts: Sequence[str]) -> Tensor:
    """One row per prompt, [B, ...]: a copy, which autograd accepts where it would refuse a cached row."""
    return torch.stack([rows[prompt] for prompt in prompts])


def _finite(scorer: BatchScorer, scores: Tensor) -> Tensor:
    result = scores.cpu().clone()
    if not result.isfinite().all():
        first = int((~result.isfinite()).nonzero()[0])
        raise ScorerError(
            f"{scorer.name} gave {result[first].item()} for image {first}: the weights are damaged or "
            f"{scorer.settings['dtype']} overflows"
        )
    return result


def _stacked(batch: tuple[int, list[Future[Tensor]]]) -> tuple[int, Tensor]:
    start, futures = batch
    return start, torch.stack([future.result() for future in futures])


def _load(image: Image.Image, index: int) -> None:
    try:
        image.load()
    except (OSError, SyntaxError) as error:
        raise ScorerError(f"image {index}: the image cannot be read: {error}") from error


def _check_pairs(prompts: Sequence[str], images: Sequence[Image.Image]) -> None:
    _check_prompts(prompts)
    if len(prompts) != len(images):
        raise ScorerError(f"{len(prompts)} prompts and {len(images)} images: give one prompt for each image")


def _check_prompts(prompts: Sequence[str]) -> None:
    if isinstance(prompts, str):
        raise ScorerError("prompts is one string: give a list with one prompt for each image")
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise ScorerError(f"prompt {index} is {type(prompt).__name__}, not str")
