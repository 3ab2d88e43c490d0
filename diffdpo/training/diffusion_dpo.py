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
        device: str | torch.device = "cpu",
    ) -> None:
        self.model = model
        self.network = model.network
        self.cache = cache
        self.train_rows = list(train_rows)
        self.held_out_rows = list(held_out_rows)
        self.loss_config = loss
        self.seed = seed
        self.caption_dropout = caption_dropout
        self.device = torch.device(device)
        self.reference: Predict = model.reference()
        self._held_out_ref: list[tuple[Tensor, Tensor]] = []

    @property
    def n_examples(self) -> int:
        return len(self.train_rows)

    def loss(self, network: nn.Module, examples: Sequence[tuple[int, int]]) -> tuple[Tensor, dict[str, Tensor]]:
        batch = self.cache.batch([self.train_rows[index] for index, _ in examples])
        noised = self._noise(batch, [epoch for _, epoch in examples])
        with torch.no_grad():
            ref_w, ref_l = noised.errors(self.reference(*noised.inputs))
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
                self._held_out_ref.append(noised.errors(self.reference(*noised.inputs)))
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

    def _held_out_batches(self) -> Iterator[_Noised]:
        """Every held-out pair once for each fixed draw, the draws one after the other."""
        rows = self.held_out_rows
        for number in range(HELD_OUT_DRAWS):
            for start in range(0, len(rows), HELD_OUT_BATCH):
                batch = self.cache.batch(rows[start : start + HELD_OUT_BATCH])
                # Negative draw indices: no epoch of training ever uses them.
                yield self._noise(batch, [-1 - number] * len(batch.pair_ids), dropout=0.0)

    def _preference(self, error_w: Tensor, error_l: Tensor, ref_w: Tensor, ref_l: Tensor) -> PreferenceOutput:
        config = self.loss_config
        return diffusion_dpo_loss(
            error_w, error_l, ref_w, ref_l, beta=config.beta, kind=config.kind, label_smoothing=config.label_smoothing
        )

    def _noise(self, batch: Batch, indices: Sequence[int], dropout: float | None = None) -> _Noised:
        shape = batch.mean_w.shape[1:]
        draws = draw(
            self.seed, batch.pair_ids, indices, (shape[0], shape[1], shape[2]), self.model.objective.n_timesteps
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
