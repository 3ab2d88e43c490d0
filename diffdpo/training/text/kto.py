"""`method: kto` on text (Ethayarajh et al. 2024, arXiv 2402.01306): answers that were judged one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffdpo.config import TextKtoLossConfig
from diffdpo.data.text.batch import by_length
from diffdpo.data.text.examples import Example
from diffdpo.data.text.tokens import Tokens
from diffdpo.losses import kto_loss, kto_reference_point
from diffdpo.models.text.causal_lm import completion_logps
from diffdpo.training.text.recipe import HELD_OUT_BATCH, Places
from diffdpo.training.text.referenced import ReferencedTextRecipe


class TextKto(ReferencedTextRecipe):
    """The reference point, an estimate of KL(pi || pi_ref), is the mean log-ratio of each prompt of the whole step
    with the answer of another one (sec. 4.1), so that accumulation and processes do not move it.

    Args:
        max_length: tokens at which a mismatched sequence is cut.
    """

    def __init__(self, *args: Any, loss: TextKtoLossConfig, max_length: int, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.loss_config, self.max_length = loss, max_length
        self._point: Tensor | None = None

    def announce(self, step: Places, coming: Places) -> None:
        super().announce(step, coming)
        self._point = None

    def loss(self, network: nn.Module, examples: Places) -> tuple[Tensor, dict[str, Tensor]]:
        rows = [self.train_rows[index] for index, _ in examples]
        if self._point is None or not self._step:
            self._point = self.reference_point(self.whole_step(examples), len(examples))
        batch = self.batch(rows)
        log_ratio = completion_logps(network, batch).sums - self.reference_sums(rows, batch)
        losses = self._losses(log_ratio, self._desirable(rows), self._point)
        return losses.mean(), {"loss": losses.mean(), "kl": self._point / self.loss_config.beta}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """How often the implicit reward of a held-out answer is on its verdict's side of the reference point."""
        if not self.held_out_rows:
            return {}
        log_ratio, desirable = self._held_out_ratios(), self._desirable(self.held_out_rows)
        mismatched = self._ratios_of(self._mismatched(self.held_out_rows), HELD_OUT_BATCH, held_out=True)
        none = torch.zeros(1, device=self.device)
        point = kto_reference_point(mismatched if len(mismatched) else none, self.loss_config.beta)
        rewards = self.loss_config.beta * log_ratio
        right = torch.where(desirable, rewards > point, rewards < point)
        figures = {
            "eval/loss": self._losses(log_ratio, desirable, point).mean().item(),
            "eval/accuracy": right.float().mean().item(),
        }
        for name, some in (("desirable", rewards[desirable]), ("undesirable", rewards[~desirable])):
            if len(some):
                figures[f"eval/rewards/{name}"] = some.mean().item()
        return figures

    @torch.no_grad()
    def reference_point(self, rows: Sequence[int], batch_size: int) -> Tensor:
        """Over the prompts `rows`, which the processes share; in the unit of the reward."""
        spread = torch.distributed.is_available() and torch.distributed.is_initialized()
        first, n = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if spread else (0, 1)
        ratios = self._ratios_of(self._mismatched(rows)[first::n], batch_size)
        total = torch.stack([ratios.sum(), torch.tensor(float(len(ratios)), device=self.device)])
        if spread:
            torch.distributed.all_reduce(total)
        return kto_reference_point((total[0] / total[1].clamp_min(1)).reshape(1), self.loss_config.beta)

    def _ratios_of(self, sequences: Sequence[Tokens], batch_size: int, *, held_out: bool = False) -> Tensor:
        """Log-ratios in no order; of held-out sequences, which stay the same, the reference is asked once."""
        found = [torch.zeros(0, device=self.device)]
        for part in by_length([len(tokens.ids) for tokens in sequences], batch_size):
            batch = self.laid_out([sequences[place] for place in part], [[place] for place in range(len(part))])
            key = tuple(part)
            reference = self.held_out_reference_sums(key, (), batch) if held_out else self.reference_sums((), batch)
            found.append(completion_logps(self.network, batch).sums - reference)
        return torch.cat(found)

    def _held_out_ratios(self) -> Tensor:
        """[N], of the held-out answers themselves."""
        found = []
        for number, rows in enumerate(self.held_out_parts()):
            batch = self.batch(rows)
            reference = self.held_out_reference_sums(number, rows, batch)
            found.append(completion_logps(self.network, batch).sums - reference)
        return torch.cat(found)

    def _desirable(self, rows: Sequence[int]) -> Tensor:
        return torch.tensor([self.examples[row].ranks[0] == 1 for row in rows], device=self.device)

    def _mismatched(self, rows: Sequence[int]) -> list[Tokens]:
        """Each example's prompt with the answer of the next example of another prompt, where there is one."""
        some = [self.examples[row] for row in rows]
        found = []
        for place, example in enumerate(some):
            others = (other for other in (*some[place + 1 :], *some[:place]) if other.prompt != example.prompt)
            other = next(others, None)
            if other is not None:
                found.append(mismatched(example, other, self.max_length))
        return found

    def _losses(self, log_ratio: Tensor, desirable: Tensor, point: Tensor) -> Tensor:
        return kto_loss(
            log_ratio,
            desirable,
            point,
            beta=self.loss_config.beta,
            desirable_weight=self.loss_config.desirable_weight,
            undesirable_weight=self.loss_config.undesirable_weight,
        )


def mismatched(example: Example, other: Example, max_length: int) -> Tokens:
    """The prompt of one example with the answer of another, at most `max_length` tokens."""
    own, theirs = example.answers[0], other.answers[0]
    prompt = own.ids[: len(own.ids) - own.n_completion]
    answer = theirs.ids[len(theirs.ids) - theirs.n_completion :]
    return Tokens.of(prompt, answer[: max_length - len(prompt)])
