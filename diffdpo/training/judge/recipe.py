"""`method: scorer`: a judge learns whom people prefer (PickScore, Kirstain et al. 2023; HPS v2, Wu et al. 2023).

Knows judgements and losses; the network comes from outside, with its own preparation of images and prompts.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from diffdpo.data.judgements import Judgement, Judgements
from diffdpo.errors import UserError
from diffdpo.losses import ranking_loss, soft_label_loss

HELD_OUT_BATCH = 16
"""Judgements looked at together."""

Examples = Sequence[tuple[int, int]]
"""(index, epoch) of each."""


class JudgeModel(Protocol):
    """What is trained, with what belongs to it."""

    network: nn.Module
    """(pixels [M, 3, S, S] float32, tokens [N, ...] int64, prompt [M] int64) -> scores [M] float32: of image m for
    prompt `prompt[m]`."""

    def prepare(self, image: Image.Image) -> Tensor:
        """An image as PIL opens it -> [3, S, S] float32. Threads call it."""
        ...

    def tokens(self, prompts: list[str]) -> Tensor:
        """Prompts -> [n, ...] int64."""
        ...

    def logit_scale(self) -> Tensor:
        """What the network multiplies its cosine by, scalar."""
        ...

    def enable_gradient_checkpointing(self) -> None: ...

    def export(self, folder: Path, weights: Sequence[Tensor] | None = None) -> Path:
        """Write what a user loads, with `weights` in place of the trained ones if given."""
        ...


@dataclass(frozen=True)
class Batch:
    """B judgements of up to K images, on the device.

    Attributes:
        pixels: [M, 3, S, S], the images of the first judgement, of the second, ...
        tokens: [B, ...].
        prompt: [M] int64, which judgement an image belongs to.
        mask: [B, K] bool, True where there is an image.
        ranks: [B, K] int64, 1 is best.
        labels: [B] float32, the first of two images' share of the preference; NaN for a ranking of more.
        weights: [B] float32.
    """

    pixels: Tensor
    tokens: Tensor
    prompt: Tensor
    mask: Tensor
    ranks: Tensor
    labels: Tensor
    weights: Tensor

    def scores(self, network: nn.Module) -> Tensor:
        """[B, K] float32, 0 where there is no image."""
        flat: Tensor = network(self.pixels, self.tokens, self.prompt)
        return flat.new_zeros(self.mask.shape).masked_scatter(self.mask, flat)

    def losses(self, scores: Tensor) -> Tensor:
        """[B], not weighted: soft-label cross-entropy of two images, Bradley-Terry over a ranking of more."""
        ranked = ranking_loss(scores, self.ranks, self.mask)
        soft = soft_label_loss(scores[:, 0] - scores[:, 1], self.labels.nan_to_num(0.5))
        return torch.where(self.labels.isnan(), ranked, soft)

    def agreement(self, scores: Tensor) -> Agreement:
        """How `scores` [B, K] order the images, against the ranks."""
        ordered = (self.ranks[:, :, None] < self.ranks[:, None, :]) & self.mask[:, :, None] & self.mask[:, None, :]
        ahead = (scores[:, :, None] - scores[:, None, :]).masked_fill(~ordered, 0.0)
        pairs = ordered.sum((1, 2)).clamp_min(1)
        return Agreement(
            judged=ordered.any(2).any(1),
            accuracy=(ahead > 0).sum((1, 2)) / pairs,
            margin=ahead.sum((1, 2)) / pairs,
            confidence=(torch.sigmoid(ahead.abs()) * ordered).sum((1, 2)) / pairs,
        )


class Agreement(NamedTuple):
    """Of B judgements, each over its ordered pairs of images, [B]."""

    judged: Tensor
    """bool, False where all images tie and the rest says nothing."""
    accuracy: Tensor
    """Share of the pairs whose better image has the higher score; equal scores are wrong."""
    margin: Tensor
    """By how much the better image is ahead."""
    confidence: Tensor
    """The probability the judge gives to its own choice: over many pairs the accuracy, if it is calibrated."""


class JudgeTraining:
    """The recipe that the training loop runs.

    Args:
        train_rows, held_out_rows: which judgements are trained on and which are only looked at. There are no ties
            among the held-out ones.
        weighted: a judgement weighs 1 / number of judgements of its prompt; the weights of an optimiser step add
            up to one, over all processes and micro-steps.
        workers: threads that read and prepare images.
    """

    def __init__(
        self,
        model: JudgeModel,
        judgements: Judgements,
        train_rows: Sequence[int],
        held_out_rows: Sequence[int],
        *,
        weighted: bool,
        workers: int | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.model = model
        self.network = model.network
        self.judgements = judgements
        self.train_rows = list(train_rows)
        self.held_out_rows = list(held_out_rows)
        self.weighted = weighted
        self.device = torch.device(device)
        self._pool = ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1))
        self._waiting: dict[int, Future[list[Tensor]]] = {}
        self._step: Examples | None = None

    @property
    def n_examples(self) -> int:
        return len(self.train_rows)

    def announce(self, step: Examples, coming: Examples) -> None:
        """Take note of a whole step, which the weights are divided by, and start on the images of the next."""
        self._step = step
        self._begin([self.train_rows[index] for index, _ in coming])

    def loss(self, network: nn.Module, examples: Examples) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean over micro-steps and processes of what this returns is sum(w * loss) / sum(w) over the step."""
        batch = self._batch([self.train_rows[index] for index, _ in examples])
        scores = batch.scores(network)
        step = self._step if self._step is not None else examples
        total = sum(self._weight(self.train_rows[index]) for index, _ in step)
        loss = (batch.weights * batch.losses(scores)).sum() * (len(step) / len(examples) / total)
        found = batch.agreement(scores.detach())
        share = found.judged / found.judged.sum().clamp_min(1)
        return loss, {
            "loss": loss,
            "accuracy": (found.accuracy * share).sum(),
            "margin": (found.margin * share).sum(),
            "logit_scale": self.model.logit_scale(),
        }

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """How the judge does on the held-out prompts; every judgement counts the same."""
        if not self.held_out_rows:
            return {}
        parts: list[Tensor] = []
        for batch in self._held_out_batches():
            scores = batch.scores(self.network)
            found = batch.agreement(scores)
            parts.append(torch.stack([batch.losses(scores), found.accuracy, found.margin, found.confidence]))
        names = ("eval/loss", "eval/accuracy", "eval/margin", "eval/confidence")
        return dict(zip(names, torch.cat(parts, dim=1).mean(1).tolist(), strict=True))

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown(cancel_futures=True)

    def _held_out_batches(self) -> Iterator[Batch]:
        rows = self.held_out_rows
        parts = [rows[start : start + HELD_OUT_BATCH] for start in range(0, len(rows), HELD_OUT_BATCH)]
        for number, part in enumerate(parts):
            self._begin([row for ahead in parts[number : number + 2] for row in ahead])
            yield self._batch(part)

    def _batch(self, rows: Sequence[int]) -> Batch:
        found = [self.judgements.rows[row] for row in rows]
        self._begin(rows)
        images = [self._take(row) for row in rows]
        counts = torch.tensor([len(some) for some in images])
        ranks = torch.ones(len(rows), int(counts.max()), dtype=torch.int64)
        for place, judgement in enumerate(found):
            ranks[place, : len(judgement.ranks)] = torch.tensor(judgement.ranks)
        return Batch(
            pixels=torch.stack([pixels for some in images for pixels in some]).to(self.device),
            tokens=self.model.tokens([judgement.caption for judgement in found]).to(self.device),
            prompt=torch.arange(len(rows)).repeat_interleave(counts).to(self.device),
            mask=(torch.arange(ranks.shape[1]) < counts[:, None]).to(self.device),
            ranks=ranks.to(self.device),
            labels=torch.tensor([_label(judgement) for judgement in found]).to(self.device),
            weights=torch.tensor([self._weight(row) for row in rows]).to(self.device),
        )

    def _weight(self, row: int) -> float:
        return self.judgements.rows[row].weight if self.weighted else 1.0

    def _begin(self, rows: Sequence[int]) -> None:
        for row in rows:
            if row not in self._waiting:
                self._waiting[row] = self._pool.submit(self._prepare, row)

    def _take(self, row: int) -> list[Tensor]:
        """The prepared images of a judgement; prepared now if a step asks for it twice."""
        waiting = self._waiting.pop(row, None)
        return waiting.result() if waiting is not None else self._prepare(row)

    def _prepare(self, row: int) -> list[Tensor]:
        prepared = []
        for number, content in enumerate(self.judgements.images(row)):
            try:
                with Image.open(io.BytesIO(content)) as image:
                    prepared.append(self.model.prepare(image))
            except (OSError, ValueError, SyntaxError) as error:
                where = f"{self.judgements.path}: {self.judgements.rows[row].name}"
                why = " ".join(str(error).split())
                raise UserError(f"{where}: image {number} of it cannot be read ({why})") from None
        return prepared


def _label(judgement: Judgement) -> float:
    return float("nan") if judgement.label is None else judgement.label
