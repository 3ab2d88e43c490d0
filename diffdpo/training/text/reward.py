"""`method: reward`: scores that explain rankings (Ouyang et al. 2022, step 2). K answers cost K forwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise, starmap
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from diffdpo.data.text.batch import TextBatch
from diffdpo.data.text.packing import PackedBatch
from diffdpo.data.text.tokens import Tokens
from diffdpo.losses import ranking_loss
from diffdpo.models.text.reward_model import RewardModel
from diffdpo.training.text.calibration import expected_calibration_error
from diffdpo.training.text.recipe import Places, TextRecipe


@dataclass(frozen=True)
class RankedBatch:
    """The answers to B prompts, up to K of each.

    Attributes:
        flat: the answers of the first prompt, of the second, ...
        mask: [B, K] bool, True where there is an answer.
        ranks: [B, K] int64, 1 is best.
    """

    flat: TextBatch | PackedBatch
    mask: Tensor
    ranks: Tensor

    def scores(self, network: nn.Module) -> Tensor:
        """[B, K] float32, 0 where there is no answer."""
        placed = (self.flat.positions, self.flat.last) if isinstance(self.flat, PackedBatch) else None
        flat: Tensor = network(self.flat.ids, self.flat.mask, placed)
        return flat.new_zeros(self.mask.shape).masked_scatter(self.mask, flat)

    def margins(self, scores: Tensor) -> Tensor:
        """By how much the better answer of every ordered pair is ahead, over all prompts, [pairs]."""
        ordered = (self.ranks[:, :, None] < self.ranks[:, None, :]) & self.mask[:, :, None] & self.mask[:, None, :]
        return (scores[:, :, None] - scores[:, None, :])[ordered]


class RewardTraining(TextRecipe):
    """All ordered pairs of a prompt are one element of the batch: it weighs as much as any other prompt."""

    def __init__(self, model: RewardModel, *args: Any, **keywords: Any) -> None:
        super().__init__(model.network, *args, **keywords)
        self.model = model

    def loss(self, network: nn.Module, examples: Places) -> tuple[Tensor, dict[str, Tensor]]:
        batch = self.ranked([self.train_rows[index] for index, _ in examples])
        scores = batch.scores(network)
        loss = ranking_loss(scores, batch.ranks, batch.mask).mean()
        margins = batch.margins(scores.detach())
        return loss, {"loss": loss, "accuracy": (margins > 0).float().mean(), "margin": margins.mean()}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Over all ordered pairs of the held-out prompts; the loss over prompts, as in training."""
        if not self.held_out_rows:
            return {}
        losses, margins = [], []
        for rows in self.held_out_parts():
            batch = self.ranked(rows)
            scores = batch.scores(self.network)
            losses.append(ranking_loss(scores, batch.ranks, batch.mask))
            margins.append(batch.margins(scores))
        margin = torch.cat(margins)
        return {
            "eval/loss": torch.cat(losses).mean().item(),
            "eval/accuracy": (margin > 0).float().mean().item(),
            "eval/margin": margin.mean().item(),
            "eval/calibration_error": expected_calibration_error(margin),
        }

    def mean_score(self, answers: Sequence[Tokens]) -> float:
        """The mean score of some answers: what is made 0 after training, over the reference answers."""
        return fmean(self.model.scores([tokens.ids for tokens in answers], self.filler))

    def best_answers(self) -> list[Tokens]:
        """The best answer to every prompt that is trained on."""
        ranked = [self.examples[row] for row in self.train_rows]
        return [example.answers[example.ranks.index(min(example.ranks))] for example in ranked]

    def ranked(self, rows: Sequence[int]) -> RankedBatch:
        found = [self.examples[row] for row in rows]
        counts = torch.tensor([len(example.answers) for example in found])
        ranks = torch.ones(len(rows), int(counts.max()), dtype=torch.int64)
        for place, example in enumerate(found):
            ranks[place, : len(example.ranks)] = torch.tensor(example.ranks)
        ends = accumulate(counts.tolist(), initial=0)
        answers = [answer for example in found for answer in example.answers]
        return RankedBatch(
            self.laid_out(answers, list(starmap(range, pairwise(ends)))),
            (torch.arange(ranks.shape[1]) < counts[:, None]).to(self.device),
            ranks.to(self.device),
        )
