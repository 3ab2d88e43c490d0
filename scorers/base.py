"""What a scorer is, and the one scoring loop that all local models share.

A new scorer is a `BatchScorer` with a few small functions: prepare one image, encode some prompts, compare
a batch. Batching, threads, the text cache, checks and the precision guard live here.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from scorers.batching import BatchSize, fit, in_parts
from scorers.compiled import plain_compile_errors
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
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> None:
        """`batch_size`: images per forward pass (None: what fits into free memory, see `scorers.batching`).

        `workers`: threads preparing images (None: one per CPU).
        """
        for option, value in (("batch_size", batch_size), ("workers", workers)):
            if value is not None and value < 1:
                raise ScorerError(f"{option} must be at least 1, not {value}")
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(dtype)
        self.batch_size = batch_size
        self._batch, self._text_batch = BatchSize(batch_size, self.device), BatchSize(batch_size, self.device)
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
    def reads_text(self) -> bool:
        """Whether the score depends on the prompt."""
        return type(self).encode is not BatchScorer.encode

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

        def encode(part: slice) -> list[Tensor]:
            return [row.clone() for row in self.encode(missing[part])]

        with torch.inference_mode():
            found = in_parts(encode, len(missing), self._text_batch)
        rows.update(zip(missing, (row for part in found for row in part), strict=True))
        self.truncated_prompts += self.overlong(missing)
        recent = {prompt: row for prompt, row in self._cache.items() if prompt not in rows} | rows
        self._cache = dict(list(recent.items())[-CACHED_PROMPTS:])
        return rows

    def _prepared(self, images: Sequence[Image.Image], size: int) -> Iterator[tuple[int, Tensor]]:
        """(index of the batch's first image, batch [B, 3, S, S]) in order, `size` each; prepared a few ahead."""
        repeated = {key for key, count in Counter(map(id, images)).items() if count > 1}
        waiting: deque[tuple[int, list[Future[Tensor]]]] = deque()
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                for start in range(0, len(images), size):
                    batch = range(start, min(start + size, len(images)))
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
        _check_prompts(prompts, read=self.reads_text)
        if pixels.ndim != 4 or pixels.shape[1] != 3 or len(pixels) != len(prompts):
            given = f"{list(pixels.shape)} and {len(prompts)}"
            raise ScorerError(f"reward takes pixels [B, 3, H, W] and B prompts, not {given}")
        with exact_precision(self.device, self.dtype):
            texts = _rows(self.encoded(prompts), prompts)
            with plain_compile_errors():
                return self.compare(self.features(self.fit(pixels.to(self.device, torch.float32))), texts)


def score_group(scorers: Sequence[BatchScorer], prompts: Sequence[str], images: Sequence[Image.Image]) -> list[Tensor]:
    """The scores [N] of each of `scorers`, which must agree in `preparation` and `batch_size`.

    Each image is prepared once, and each batch passes once through every distinct `encoder`.
    """
    check_pairs(prompts, images, read=any(scorer.reads_text for scorer in scorers))
    if not len(images):
        return [torch.zeros(0) for _ in scorers]
    encoded = []
    for scorer in scorers:
        with exact_precision(scorer.device, scorer.dtype):
            encoded.append(scorer.encoded(prompts))
    batches = [scorer._batch for scorer in scorers]
    found: list[list[Tensor]] = []
    for start, pixels in scorers[0]._prepared(images, _smallest(batches).size):
        compute = partial(_pass, scorers, encoded, prompts[start : start + len(pixels)], pixels)
        if len(pixels) > 1:
            fit(batches, compute)
        found += in_parts(compute, len(pixels), _smallest(batches))
    parts = zip(*found, strict=True)
    return [_finite(scorer, torch.cat(list(scores))) for scorer, scores in zip(scorers, parts, strict=True)]


def _pass(
    scorers: Sequence[BatchScorer],
    encoded: Sequence[Mapping[str, Tensor]],
    prompts: Sequence[str],
    pixels: Tensor,
    part: slice,
) -> list[Tensor]:
    """Each scorer's scores for a part of some prepared images, once through every distinct encoder."""
    features: dict[Hashable, Tensor] = {}
    scores = []
    for scorer, rows in zip(scorers, encoded, strict=True):
        with exact_precision(scorer.device, scorer.dtype), torch.inference_mode(), plain_compile_errors():
            if scorer.encoder not in features:
                features[scorer.encoder] = scorer.features(pixels[part].to(scorer.device))
            scores.append(scorer.compare(features[scorer.encoder], _rows(rows, prompts[part])).float())
    return scores


def _smallest(batches: Iterable[BatchSize]) -> BatchSize:
    return min(batches, key=lambda batch: batch.size)


def _rows(rows: Mapping[str, Tensor], prompts: Sequence[str]) -> Tensor:
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


def check_pairs(prompts: Sequence[str], images: Sequence[Image.Image], *, read: bool = True) -> None:
    """Raise `ScorerError` unless there is one prompt for each image, and none empty if they are `read`."""
    _check_prompts(prompts, read=read)
    if len(prompts) != len(images):
        raise ScorerError(f"{len(prompts)} prompts and {len(images)} images: give one prompt for each image")


def _check_prompts(prompts: Sequence[str], *, read: bool) -> None:
    if isinstance(prompts, str):
        raise ScorerError("prompts is one string: give a list with one prompt for each image")
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise ScorerError(f"prompt {index} is {type(prompt).__name__}, not str")
        # The published models would answer it with a number like any other, and it is nearly always a gap in a table.
        if read and not prompt.strip():
            raise ScorerError(f"prompt {index} is empty")
