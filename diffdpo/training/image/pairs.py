"""What every method that tunes an image model on pairs shares: draws, noising, caption dropout, held-out figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from diffdpo.data.framing import Size
from diffdpo.data.latents import Batch, LatentCache
from diffdpo.losses import PreferenceOutput, denoising_error
from diffdpo.models.protocol import Conditioning, ImageModel
from diffdpo.objectives import Draws, draw, draw_view, spread
from diffdpo.training.image.ahead import Ahead
from diffdpo.training.order import make_order

HELD_OUT_DRAWS = 8
"""Fixed (timestep, noise) draws per held-out pair."""
HELD_OUT_BATCH = 16
BUCKETS = 4
"""Equal ranges of timesteps that the held-out accuracy is also told by."""

Examples = Sequence[tuple[int, int]]
"""(index, epoch) of each."""


class PairRecipe(ABC):
    """A recipe of the training loop over cached pairs. Holds no reference; see `ReferencedRecipe`.

    Args:
        cache: the encoded triplets.
        train_rows, held_out_rows: which of them are trained on and which are only looked at. There are no ties
            among the held-out rows.
        seed: of the draws.
        caption_dropout: share of draws made without the caption.
        timestep_power, stratified, antithetic: of training's draws, see `objectives.draw` and, for timesteps that are
            spread evenly over a step's pairs, `objectives.spread`. Held-out figures are at plain ones.
        prefetch: micro-batches that a thread prepares ahead.
        weights: of every train row's loss, [n] float32 on the CPU; None weighs all alike.
    """

    def __init__(
        self,
        model: ImageModel,
        cache: LatentCache,
        train_rows: Sequence[int],
        held_out_rows: Sequence[int],
        *,
        seed: int,
        caption_dropout: float = 0.0,
        timestep_power: float = 1.0,
        stratified: bool = False,
        antithetic: bool = False,
        prefetch: int = 0,
        weights: Tensor | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.model = model
        self.network = model.network
        self.cache = cache
        self.train_rows = list(train_rows)
        self.held_out_rows = list(held_out_rows)
        self.seed = seed
        self.caption_dropout = caption_dropout
        self.timestep_power = timestep_power
        self.antithetic = antithetic
        self._order = make_order(self.n_examples, self.buckets, 1, 1, seed) if stratified else None
        self._ahead = Ahead(self._prepare, prefetch)
        self.device = torch.device(device)
        self.weights = weights

    @abstractmethod
    def judge(self, *errors: Tensor) -> PreferenceOutput:
        """Losses and rewards of some pairs without ties, [B] each: from the errors of winner and loser, and after
        them the reference's, where there is one."""

    @property
    def n_examples(self) -> int:
        return len(self.train_rows)

    @property
    def buckets(self) -> list[Size] | None:
        """Of every train row; see `protocols.Bucketed`."""
        buckets = self.cache.buckets
        return None if buckets is None else [buckets[row] for row in self.train_rows]

    def loss(self, network: nn.Module, examples: Examples) -> tuple[Tensor, dict[str, Tensor]]:
        batch, noised = self.noised(examples)
        reference = self._ref_errors(noised, examples)
        error_w, error_l = noised.errors(self.model.predict(network, *noised.inputs))
        output = self.judge(error_w, error_l, *reference)
        # Whether there is a tie among them or not: processes may have to judge in step.
        mirrored = self.judge(error_l, error_w, *reversed(reference)).loss
        losses = torch.where(batch.ties.to(self.device, non_blocking=True), 0.5 * (output.loss + mirrored), output.loss)
        loss = self._mean(losses, examples)
        return loss, {"loss": loss, **figures_of(output, error_w, error_l, *reference)}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The same pairs at the same timesteps and noise every time: how often, and by how much, the winner wins."""
        if not self.held_out_rows:
            return {}
        parts: list[tuple[Tensor, ...]] = []
        timesteps: list[Tensor] = []
        for number, noised in enumerate(self._held_out_batches()):
            reference = self._held_out_ref_errors(number, noised)
            errors = noised.errors(self.model.predict(self.network, *noised.inputs))
            parts.append((*errors, *reference))
            timesteps.append(noised.inputs[1].chunk(2)[0])
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        output = self.judge(*columns)
        each = output.chosen_reward - output.rejected_reward
        margin = each.reshape(HELD_OUT_DRAWS, -1).mean(0)
        return {
            "eval/loss": output.loss.mean().item(),
            "eval/accuracy": (margin > 0).float().mean().item(),
            "eval/margin": margin.mean().item(),
            **_held_out_errors(*columns),
            **accuracy_by_timestep(each, torch.cat(timesteps), self.model.objective.n_timesteps),
        }

    def announce(self, step: Examples, coming: Examples) -> None:
        """See `protocols.Announced`."""
        self._ahead.announce(coming)

    def noised(self, examples: Examples) -> tuple[Batch, NoisedPairs]:
        """The pairs of some examples of training, on the CPU, and noised on the device."""
        batch, draws = self._ahead.take(examples)
        return batch, NoisedPairs.of(batch.to(self.device), _on(draws, self.device), self.model, self.caption_dropout)

    def _prepare(self, examples: Examples) -> tuple[Batch, Draws]:
        """What `noised` needs of the CPU; in pinned memory where a GPU takes it from there."""
        batch = self._batch(examples)
        levels = None if self._order is None else spread(self.seed, [self._order.place(*which) for which in examples])
        draws = self._draw(
            batch,
            [epoch for _, epoch in examples],
            timestep_power=self.timestep_power,
            levels=levels,
            antithetic=self.antithetic,
        )
        if self.device.type != "cuda":
            return batch, draws
        return batch.pinned(), Draws(*(part.pin_memory() for part in draws))

    def _batch(self, examples: Examples) -> Batch:
        """The pairs of some examples, each in the view that its epoch draws."""
        rows = [self.train_rows[index] for index, _ in examples]
        ids, n_views = self.cache.pair_ids, self.cache.n_views
        if n_views == 1:
            return self.cache.batch(rows)
        views = [draw_view(self.seed, ids[row], epoch, n_views) for row, (_, epoch) in zip(rows, examples, strict=True)]
        return self.cache.batch(rows, views)

    def _mean(self, losses: Tensor, examples: Examples) -> Tensor:
        """The mean of [B] losses, weighed. The weights are divided by nothing: their mean over all rows is 1, and so
        accumulation and processes leave the gradient of a step what one big batch would have."""
        if self.weights is None:
            return losses.mean()
        weights = self.weights[[index for index, _ in examples]]
        return (weights.to(losses, non_blocking=True) * losses).mean()

    def _ref_errors(self, noised: NoisedPairs, examples: Examples) -> tuple[Tensor, ...]:
        """The reference's errors of winners and losers in training; nothing where there is no reference."""
        return ()

    def _held_out_ref_errors(self, number: int, noised: NoisedPairs) -> tuple[Tensor, ...]:
        """The same of the held-out batch of that number."""
        return ()

    def _held_out_batches(self) -> Iterator[NoisedPairs]:
        """Every held-out pair once for each fixed draw, the draws one after the other."""
        for number in range(HELD_OUT_DRAWS):
            for rows in self._held_out_parts():
                batch = self.cache.batch(rows)
                # Negative draw indices: no epoch of training ever uses them.
                draws = self._draw(batch, [-1 - number] * len(batch.pair_ids))
                yield NoisedPairs.of(batch.to(self.device), _on(draws, self.device), self.model, dropout=0.0)

    def _held_out_parts(self) -> list[list[int]]:
        """Rows that go through the network together; with buckets, bucket by bucket."""
        rows = self.held_out_rows
        together = [[rows[place] for place in places] for places in self._alike(rows)]
        return [
            alike[start : start + HELD_OUT_BATCH]
            for alike in together
            for start in range(0, len(alike), HELD_OUT_BATCH)
        ]

    def _alike(self, rows: Sequence[int]) -> list[list[int]]:
        """The places of the cache's `rows`, those of one bucket together."""
        buckets = self.cache.buckets
        if buckets is None:
            return [list(range(len(rows)))]
        places = sorted(range(len(rows)), key=lambda place: buckets[rows[place]])
        return [list(those) for _, those in groupby(places, lambda place: buckets[rows[place]])]

    def _draw(self, batch: Batch, indices: Sequence[int], **how: Any) -> Draws:
        _, c, h, w = batch.mean_w.shape
        return draw(self.seed, batch.pair_ids, indices, (c, h, w), self.model.objective.n_timesteps, **how)


def _on(draws: Draws, device: torch.device) -> Draws:
    return Draws(*(part.to(device, non_blocking=True) for part in draws))


class NoisedPairs:
    """A batch of pairs, noised: winners and then losers, so that one forward pass serves both."""

    def __init__(self, x_t: Tensor, timesteps: Tensor, conditioning: Conditioning, target: Tensor) -> None:
        self.inputs = (x_t, timesteps, conditioning)
        self.target = target

    @classmethod
    def of(cls, batch: Batch, draws: Draws, model: ImageModel, dropout: float) -> NoisedPairs:
        x_w = batch.mean_w + batch.std_w * draws.posterior_w
        x_l = batch.mean_l + batch.std_l * draws.posterior_l
        x_0, noise, timesteps = torch.cat([x_w, x_l]), draws.noise.repeat(2, 1, 1, 1), draws.timesteps.repeat(2)
        sizes = torch.cat([batch.sizes[:, 0], batch.sizes[:, 1]])
        return cls(
            model.objective.noised(x_0, noise, timesteps),
            timesteps,
            model.add_sizes(_drop_captions(batch, draws.dropped < dropout), sizes, (x_0.shape[-2], x_0.shape[-1])),
            model.objective.target(x_0, noise, timesteps),
        )

    def winners(self) -> tuple[Tensor, Tensor, Conditioning, Tensor]:
        """x_t, timesteps, conditioning and target of the winners alone, [B, ...]."""
        x_t, timesteps, conditioning = self.inputs
        own = {name: given.chunk(2)[0] for name, given in conditioning.items()}
        return x_t.chunk(2)[0], timesteps.chunk(2)[0], own, self.target.chunk(2)[0]

    def errors(self, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """The winners' and the losers' errors, [B] float32 each."""
        error_w, error_l = denoising_error(prediction, self.target).chunk(2)
        return error_w, error_l


def _drop_captions(batch: Batch, dropped: Tensor) -> Conditioning:
    """Conditioning of winners and losers, [2B, ...]; a caption is dropped for both of a pair or for neither."""
    doubled = {}
    for name, given in batch.conditioning.items():
        mask = dropped.reshape(-1, *[1] * (given.dim() - 1))
        kept = torch.where(mask, batch.unconditional[name], given)
        doubled[name] = torch.cat([kept, kept])
    return doubled


def figures_of(output: PreferenceOutput, error_w: Tensor, error_l: Tensor, *reference: Tensor) -> dict[str, Tensor]:
    """What is logged of a training batch; the errors against the reference's only where there is one."""
    margin = output.chosen_reward - output.rejected_reward
    figures = {
        "rewards/chosen": output.chosen_reward.mean(),
        "rewards/rejected": output.rejected_reward.mean(),
        "rewards/margins": margin.mean(),
        "rewards/accuracies": (margin > 0).float().mean(),
        "gradient_weight": torch.sigmoid(-margin).mean(),
        "error/chosen": error_w.mean(),
        "error/rejected": error_l.mean(),
    }
    if reference:
        ref_w, ref_l = reference
        figures["error/chosen_vs_ref"] = (error_w - ref_w).mean()
        figures["error/rejected_vs_ref"] = (error_l - ref_l).mean()
    return figures


def accuracy_by_timestep(margin: Tensor, timesteps: Tensor, n_timesteps: int) -> dict[str, float]:
    """Share of the draws with a positive margin within each range of timesteps that any of them fell into.

    Args:
        margin: reward of the winner less that of the loser, of every pair and draw, [N].
        timesteps: [N] int64 in 0..n_timesteps-1.
    """
    bucket = timesteps * BUCKETS // n_timesteps
    edges = [-(-number * n_timesteps // BUCKETS) for number in range(BUCKETS + 1)]
    found: dict[str, float] = {}
    for number in range(BUCKETS):
        inside = margin[bucket == number]
        if len(inside):
            name = f"eval/accuracy/t{edges[number]}-{edges[number + 1] - 1}"
            found[name] = (inside > 0).float().mean().item()
    return found


def _held_out_errors(error_w: Tensor, error_l: Tensor, *reference: Tensor) -> dict[str, float]:
    if not reference:
        return {"eval/error/chosen": error_w.mean().item(), "eval/error/rejected": error_l.mean().item()}
    ref_w, ref_l = reference
    return {
        "eval/error/chosen_vs_ref": (error_w - ref_w).mean().item(),
        "eval/error/rejected_vs_ref": (error_l - ref_l).mean().item(),
    }
