"""`method: dpo` on text (Rafailov et al. 2023): the loss of the image half, with the exact likelihood in the bound's
place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from diffdpo.config import TextDpoLossConfig
from diffdpo.losses import PreferenceOutput, orpo_loss, preference_loss, simpo_loss
from diffdpo.models.text.causal_lm import CompletionLogps, completion_logps
from diffdpo.training.text.recipe import Places
from diffdpo.training.text.referenced import ReferencedTextRecipe


class TextDpo(ReferencedTextRecipe):
    """Pairs; the chosen answers of a batch and then the rejected ones go through the network together."""

    def __init__(self, *args: Any, loss: TextDpoLossConfig, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.loss_config = loss

    def loss(self, network: nn.Module, examples: Places) -> tuple[Tensor, dict[str, Tensor]]:
        rows = [self.train_rows[index] for index, _ in examples]
        batch = self.batch(rows)
        reference = self.reference_sums(rows, batch)
        logps = completion_logps(network, batch)
        output = judge(self.loss_config, logps, reference)
        return output.loss.mean(), {"loss": output.loss.mean(), **figures_of(output, logps)}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """How often, and by how much, the chosen answers of held-out pairs are ahead."""
        if not self.held_out_rows:
            return {}
        parts = []
        for number, rows in enumerate(self.held_out_parts()):
            batch = self.batch(rows)
            reference = self.held_out_reference_sums(number, rows, batch)
            parts.append(torch.stack(judge(self.loss_config, completion_logps(self.network, batch), reference)))
        loss, chosen, rejected = torch.cat(parts, dim=1)
        margin = chosen - rejected
        return {
            "eval/loss": loss.mean().item(),
            "eval/accuracy": (margin > 0).float().mean().item(),
            "eval/margin": margin.mean().item(),
            "eval/rewards/chosen": chosen.mean().item(),
            "eval/rewards/rejected": rejected.mean().item(),
        }


def judge(config: TextDpoLossConfig, logps: CompletionLogps, reference: Tensor) -> PreferenceOutput:
    """Losses and rewards of B pairs.

    Args:
        logps: of the B chosen answers and then of the B rejected ones.
        reference: [2B], the reference's sums; zeros are a reference that finds all answers equally likely.
    """
    if config.kind == "simpo":
        return simpo_loss(*_halves(logps.means), beta=config.beta, gamma=config.gamma)
    if config.kind == "orpo":
        return orpo_loss(*_halves(logps.means), beta=config.beta)
    log_ratio = logps.sums - reference
    if config.average == "mean":
        log_ratio = log_ratio / logps.counts
    return preference_loss(
        *_halves(log_ratio), beta=config.beta, kind=config.kind, label_smoothing=config.label_smoothing
    )


def figures_of(output: PreferenceOutput, logps: CompletionLogps) -> dict[str, Tensor]:
    """What is logged of a training batch."""
    margin = output.chosen_reward - output.rejected_reward
    chosen, rejected = _halves(logps.sums.detach())
    return {
        "rewards/chosen": output.chosen_reward.mean(),
        "rewards/rejected": output.rejected_reward.mean(),
        "rewards/margins": margin.mean(),
        "rewards/accuracies": (margin > 0).float().mean(),
        "gradient_weight": torch.sigmoid(-margin).mean(),
        "logps/chosen": chosen.mean(),
        "logps/rejected": rejected.mean(),
    }


def _halves(both: Tensor) -> tuple[Tensor, Tensor]:
    chosen, rejected = both.chunk(2)
    return chosen, rejected
