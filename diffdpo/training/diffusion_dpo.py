"""`method: dpo` on images: Diffusion-DPO (Wallace et al. 2023) over cached latents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from diffdpo.config import LossConfig
from diffdpo.data.latents import Batch, LatentCache
from diffdpo.losses import PreferenceOutput, denoising_error, diffusion_dpo_loss, winner_safeguard
from diffdpo.models.protocol import Conditioning, ImageModel, Predict
from diffdpo.objectives import Draws, draw
from diffdpo.training.reference import ReferenceTable

HELD_OUT_DRAWS = 8
"""Fixed (timestep, noise) draws per held-out pair."""
HELD_OUT_BATCH = 16


class DiffusionDpo:
    """The recipe that the training loop runs.

    Args:
        cache: the encoded triplets.
        train_rows, held_out_rows: which of them are trained on and which are only looked at. Ties among the
            train rows count half in each order; there are none among the held-out rows.
        seed: of the draws.
        caption_dropout: share of draws made without the caption.
        timestep_power: of training's timesteps, see `objectives.draw`. Held-out figures are at uniform ones.
        reference: None is the model's own, as it is now.
    """

    def __init__(
        self,
        model: ImageModel,
        cache: LatentCache,
        train_rows: Sequence[int],
        held_out_rows: Sequence[int],
        loss: LossConfig,
        *,
        seed: int,
        caption_dropout: float = 0.0,
        timestep_power: float = 1.0,
        device: str | torch.device = "cpu",
        reference: Predict | None = None,
    ) -> None:
        self.model = model
        self.network = model.network
        self.cache = cache
        self.train_rows = list(train_rows)
        self.held_out_rows = list(held_out_rows)
        self.loss_config = loss
        self.seed = seed
        self.caption_dropout = caption_dropout
        self.timestep_power = timestep_power
        self.device = torch.device(device)
        self._reference: Predict | None = reference or model.reference()
        self._table: ReferenceTable | None = None
        self._held_out_ref: list[tuple[Tensor, Tensor]] = []

    @property
    def n_examples(self) -> int:
        return len(self.train_rows)

    def loss(self, network: nn.Module, examples: Sequence[tuple[int, int]]) -> tuple[Tensor, dict[str, Tensor]]:
        batch = self.cache.batch([self.train_rows[index] for index, _ in examples])
        noised = self._noise(batch, [epoch for _, epoch in examples])
        ref_w, ref_l = self._reference_errors(noised, examples)
        prediction = self.model.predict(network, *noised.inputs)
        error_w, error_l = noised.errors(prediction)
        passed = torch.ones_like(error_l)
        if self.loss_config.winner_safeguard is not None:
            (prediction_w, prediction_l), (target_w, target_l) = prediction.chunk(2), noised.target.chunk(2)
            mu = self.loss_config.winner_safeguard
            passed = winner_safeguard(prediction_w, prediction_l, target_w, target_l, mu)
        # The value stays to the bit (beta would magnify a rounding); only this share of its gradient goes on.
        guarded_l = error_l.detach() + passed * (error_l - error_l.detach())
        output = self._preference(error_w, guarded_l, ref_w, ref_l)
        losses = output.loss
        if bool(batch.ties.any()):
            mirrored = self._preference(guarded_l, error_w, ref_l, ref_w).loss
            losses = torch.where(batch.ties.to(self.device), 0.5 * (losses + mirrored), losses)
        figures = _figures(output, error_w, error_l, ref_w, ref_l)
        return losses.mean(), {"loss": losses.mean(), **figures, "safeguard": passed.mean()}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The same pairs at the same timesteps and noise every time: how often, and by how much, the winner wins."""
        if not self.held_out_rows:
            return {}
        parts: list[tuple[Tensor, ...]] = []
        for number, noised in enumerate(self._held_out_batches()):
            if number == len(self._held_out_ref):
                self._held_out_ref.append(self._reference_errors(noised))
            errors = noised.errors(self.model.predict(self.network, *noised.inputs))
            parts.append((*errors, *self._held_out_ref[number]))
        error_w, error_l, ref_w, ref_l = (torch.cat(column) for column in zip(*parts, strict=True))
        output = self._preference(error_w, error_l, ref_w, ref_l)
        margin = (output.chosen_reward - output.rejected_reward).reshape(HELD_OUT_DRAWS, -1).mean(0)
        return {
            "eval/loss": output.loss.mean().item(),
            "eval/accuracy": (margin > 0).float().mean().item(),
            "eval/margin": margin.mean().item(),
            "eval/error/chosen_vs_ref": (error_w - ref_w).mean().item(),
            "eval/error/rejected_vs_ref": (error_l - ref_l).mean().item(),
        }

    @torch.no_grad()
    def compute_reference(self, examples: Sequence[tuple[int, int]]) -> Tensor:
        """The reference's errors of some examples, [B, 2] float32: what a `ReferenceTable` holds."""
        batch = self.cache.batch([self.train_rows[index] for index, _ in examples])
        return torch.stack(self._reference_errors(self._noise(batch, [epoch for _, epoch in examples])), dim=1)

    @torch.no_grad()
    def compute_held_out_reference(self) -> Tensor:
        """The same of every held-out pair and draw, [m, 2]."""
        parts = [torch.stack(self._reference_errors(noised), dim=1) for noised in self._held_out_batches()]
        return torch.cat(parts).cpu() if parts else torch.zeros(0, 2)

    def use(self, table: ReferenceTable) -> None:
        """Take the reference's errors from a table from now on, and let the reference itself go."""
        self._table, self._reference = table, None
        sizes = [len(rows) for rows in self._held_out_parts()] * HELD_OUT_DRAWS
        parts = torch.split(table.held_out.to(self.device), sizes)
        self._held_out_ref = [(part[:, 0], part[:, 1]) for part in parts]

    @torch.no_grad()
    def _reference_errors(
        self, noised: _Noised, examples: Sequence[tuple[int, int]] | None = None
    ) -> tuple[Tensor, Tensor]:
        if self._table is not None and examples is not None:
            ref_w, ref_l = self._table.at(examples)
            return ref_w.to(self.device, non_blocking=True), ref_l.to(self.device, non_blocking=True)
        assert self._reference is not None, "a table was taken, which has all examples and held-out pairs"
        return noised.errors(self._reference(*noised.inputs))

    def _held_out_batches(self) -> Iterator[_Noised]:
        """Every held-out pair once for each fixed draw, the draws one after the other."""
        for number in range(HELD_OUT_DRAWS):
            for rows in self._held_out_parts():
                batch = self.cache.batch(rows)
                # Negative draw indices: no epoch of training ever uses them.
                yield self._noise(batch, [-1 - number] * len(batch.pair_ids), dropout=0.0, power=1.0)

    def _held_out_parts(self) -> list[list[int]]:
        rows = self.held_out_rows
        return [rows[start : start + HELD_OUT_BATCH] for start in range(0, len(rows), HELD_OUT_BATCH)]

    def _preference(self, error_w: Tensor, error_l: Tensor, ref_w: Tensor, ref_l: Tensor) -> PreferenceOutput:
        config = self.loss_config
        return diffusion_dpo_loss(
            error_w, error_l, ref_w, ref_l, beta=config.beta, kind=config.kind, label_smoothing=config.label_smoothing
        )

    def _noise(
        self, batch: Batch, indices: Sequence[int], dropout: float | None = None, power: float | None = None
    ) -> _Noised:
        _, c, h, w = batch.mean_w.shape
        draws = draw(
            self.seed,
            batch.pair_ids,
            indices,
            (c, h, w),
            self.model.objective.n_timesteps,
            timestep_power=self.timestep_power if power is None else power,
        )
        rate = self.caption_dropout if dropout is None else dropout
        return _Noised.of(batch.to(self.device), Draws(*(part.to(self.device) for part in draws)), self.model, rate)


class _Noised:
    """A batch of pairs, noised: winners and then losers, so that one forward pass serves both."""

    def __init__(self, x_t: Tensor, timesteps: Tensor, conditioning: Conditioning, target: Tensor) -> None:
        self.inputs = (x_t, timesteps, conditioning)
        self.target = target

    @classmethod
    def of(cls, batch: Batch, draws: Draws, model: ImageModel, dropout: float) -> _Noised:
        x_w = batch.mean_w + batch.std_w * draws.posterior_w
        x_l = batch.mean_l + batch.std_l * draws.posterior_l
        x_0, noise, timesteps = torch.cat([x_w, x_l]), draws.noise.repeat(2, 1, 1, 1), draws.timesteps.repeat(2)
        return cls(
            model.objective.noised(x_0, noise, timesteps),
            timesteps,
            _drop_captions(batch, draws.dropped < dropout),
            model.objective.target(x_0, noise, timesteps),
        )

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


def _figures(
    output: PreferenceOutput, error_w: Tensor, error_l: Tensor, ref_w: Tensor, ref_l: Tensor
) -> dict[str, Tensor]:
    margin = output.chosen_reward - output.rejected_reward
    return {
        "rewards/chosen": output.chosen_reward.mean(),
        "rewards/rejected": output.rejected_reward.mean(),
        "rewards/margins": margin.mean(),
        "rewards/accuracies": (margin > 0).float().mean(),
        "gradient_weight": torch.sigmoid(-margin).mean(),
        "error/chosen": error_w.mean(),
        "error/rejected": error_l.mean(),
        "error/chosen_vs_ref": (error_w - ref_w).mean(),
        "error/rejected_vs_ref": (error_l - ref_l).mean(),
    }
