"""PPO's answers: which are drawn when, what is known of each, and what every token of theirs was worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffdpo.config import PpoLossConfig
from diffdpo.data.text.batch import TextBatch, pad
from diffdpo.data.text.tokens import Tokens
from diffdpo.losses import ended_scores, generalized_advantage, shaped_rewards, whiten
from diffdpo.objectives.draws import derived_seed


@dataclass(frozen=True)
class RolloutOrder:
    """Answers are numbered without end. An example of a step is (number of the answer, pass over its rollout): every
    pass is a fresh permutation of the rollout.

    Args:
        batch: answers per optimiser step, over all processes and micro-steps.
        minibatches: steps of one pass.
        epochs: passes over a rollout.
    """

    batch: int
    minibatches: int
    epochs: int
    seed: int

    @property
    def size(self) -> int:
        """Answers of a rollout."""
        return self.batch * self.minibatches

    def at(self, step: int) -> list[tuple[int, int]]:
        """The (answer, pass) of every place of the step's batch."""
        rollout, place = divmod(step, self.epochs * self.minibatches)
        epoch, minibatch = divmod(place, self.minibatches)
        generator = torch.Generator().manual_seed(derived_seed("minibatches", self.seed, rollout, epoch))
        order = torch.randperm(self.size, generator=generator).tolist()
        mine = order[minibatch * self.batch : (minibatch + 1) * self.batch]
        return [(rollout * self.size + answer, epoch) for answer in mine]

    def rollout_of(self, answer: int) -> range:
        """The answers that are drawn together with this one."""
        first = answer // self.size * self.size
        return range(first, first + self.size)


@dataclass(frozen=True)
class Episode:
    """An answer as it was drawn. The tensors are [n] float32 over its tokens, on the CPU.

    Attributes:
        number: its place in the endless sequence.
        score: of the whole answer; 0 where it did not end.
        logps, ref_logps: under the policy that drew it, and under the reference.
        values: of the state before each token.
    """

    number: int
    tokens: Tokens
    ended: bool
    score: float
    logps: Tensor
    ref_logps: Tensor
    values: Tensor


@dataclass(frozen=True)
class Rollout:
    """Episodes with what PPO makes of them.

    Attributes:
        advantages: [N, T] float32, whitened over all real tokens; T is the longest answer's length.
        returns: [N, T].
    """

    episodes: dict[int, Episode]
    advantages: Tensor
    returns: Tensor
    figures: dict[str, float]

    @classmethod
    def of(cls, episodes: Sequence[Episode], config: PpoLossConfig, *, kl_coef: float, no_end: float) -> Rollout:
        """Rewards, advantages and returns (Ouyang et al. 2022, sec. 3.5; Schulman et al. 2016).

        Args:
            episodes: all of the rollout, over all processes, in their order.
            no_end: the score of those that did not end.
        """
        logps, ref_logps, values = (
            side_by_side([getattr(episode, name) for episode in episodes]) for name in ("logps", "ref_logps", "values")
        )
        lengths = torch.tensor([len(episode.logps) for episode in episodes])
        mask = torch.arange(logps.shape[1]) < lengths[:, None]
        ended = torch.tensor([episode.ended for episode in episodes])
        scores = ended_scores(torch.tensor([episode.score for episode in episodes]), ended, no_end)
        rewards = shaped_rewards(scores, logps, ref_logps, mask, kl_coef=kl_coef)
        advantages, returns = generalized_advantage(rewards, values, mask, gamma=config.gamma, lam=config.lam)
        figures = {
            "reward": float(scores.mean()),
            "kl": float((logps - ref_logps).sum(1).mean()),
            "kl_coef": kl_coef,
            "length": float(lengths.float().mean()),
            "ended": float(ended.float().mean()),
            "entropy": float(-logps[mask].mean()),
        }
        return cls({episode.number: episode for episode in episodes}, whiten(advantages, mask), returns, figures)

    @property
    def first(self) -> int:
        return next(iter(self.episodes))

    def batch(self, numbers: Sequence[int], filler: int) -> TextBatch:
        return pad([self.episodes[number].tokens for number in numbers], filler)

    def old(self, numbers: Sequence[int], completion: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log-probabilities, values, advantages and returns where `completion` [B, L] is True, each [B, L]."""
        some = [self.episodes[number] for number in numbers]
        rows = [number - self.first for number in numbers]
        columns = (
            [episode.logps for episode in some],
            [episode.values for episode in some],
            [self.advantages[row, : len(e.logps)] for row, e in zip(rows, some, strict=True)],
            [self.returns[row, : len(e.logps)] for row, e in zip(rows, some, strict=True)],
        )
        place = torch.zeros(completion.shape, device=completion.device)
        logps, values, advantages, returns = (
            place.masked_scatter(completion, torch.cat(column).to(completion.device)) for column in columns
        )
        return logps, values, advantages, returns

    def n_tokens(self, numbers: Sequence[int]) -> int:
        return sum(len(self.episodes[number].logps) for number in numbers)


def side_by_side(rows: Sequence[Tensor]) -> Tensor:
    """[n] each -> [N, T], filled up with 0."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
