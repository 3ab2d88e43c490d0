"""`method: ppo` (Schulman et al. 2017, as in Ouyang et al. 2022): answers of the policy's own, scored, learnt from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from diffdpo.config import PpoConfig
from diffdpo.data.text.batch import by_length, pad
from diffdpo.data.text.examples import Example
from diffdpo.data.text.records import Reward
from diffdpo.data.text.tokens import Encoder, Tokens
from diffdpo.losses import AdaptiveKL, policy_loss, value_loss
from diffdpo.models.text.actor_critic import ActorCritic
from diffdpo.models.text.causal_lm import TokenLogps
from diffdpo.models.text.generation import Decoding, answer_seed, generate
from diffdpo.training.order import Order
from diffdpo.training.text.ptx import TextStream
from diffdpo.training.text.recipe import Places, TextRecipe
from diffdpo.training.text.rollout import Episode, Rollout, RolloutOrder
from diffdpo.training.text.scoring import scored

HELD_OUT = -1
"""In place of a draw's number, in the seeds of held-out answers."""


class Ppo(TextRecipe):
    """An example is (number of an answer, pass over its rollout), see `RolloutOrder`. What is drawn for an answer is a
    function of (seed, row of the prompt, how often it was drawn before); all means are over the whole rollout or step,
    over all processes.

    Args:
        network: policy and value model.
        examples: with `query`.
        reward: asked for answers that ended.
        reference: log-probabilities of the reference.
        texts: beside the answers, for PPO-ptx; none for PPO.
    """

    def __init__(
        self,
        network: ActorCritic,
        examples: Sequence[Example],
        train_rows: Sequence[int],
        held_out_rows: Sequence[int],
        *,
        config: PpoConfig,
        encoder: Encoder,
        reward: Reward,
        reference: TokenLogps,
        texts: Sequence[Tokens] = (),
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(network, examples, train_rows, held_out_rows, filler=encoder.pad, device=device)
        self.actor_critic = network
        self.config, self.encoder, self.reward, self.reference = config, encoder, reward, reference
        rollout, seed = config.rollout, config.seed
        self.decoding = Decoding(rollout.max_tokens, rollout.temperature, batch_size=rollout.batch_size)
        self.prompts = Order(len(self.train_rows), 1, seed)
        self.kl = AdaptiveKL(config.loss.kl_coef, config.loss.kl_target or math.inf, config.loss.kl_horizon)
        self.stream = None
        if texts:
            self.stream = TextStream(texts, epochs=rollout.epochs, per_answer=config.ptx.per_answer, seed=seed)
        self.answers = self.order(1)
        self._rollout: Rollout | None = None

    def order(self, batch: int) -> RolloutOrder:
        rollout = self.config.rollout
        self.answers = RolloutOrder(batch, rollout.minibatches, rollout.epochs, self.config.seed)
        return self.answers

    def length(self, example: tuple[int, int]) -> int:
        """The same of all: a step is dealt out before its answers are drawn."""
        return 0

    def state(self) -> dict[str, Any]:
        return {"kl_coef": self.kl.coef}

    def restore(self, state: dict[str, Any]) -> None:
        self.kl.coef = state["kl_coef"]

    def loss(self, network: nn.Module, examples: Places) -> tuple[Tensor, dict[str, Tensor]]:
        step = self._step or examples
        rollout = self.rollout_of(examples[0][0])
        numbers = [number for number, _ in examples]
        batch = rollout.batch(numbers, self.filler).to(self.device)
        beside = self.stream.beside(examples) if self.stream else []
        texts = tuple(pad(beside, self.filler).to(self.device)) if beside else None
        logps, values, of_texts = network(*batch, temperature=self.decoding.temperature, texts=texts)
        # The loop takes the mean over micro-steps and processes: this makes it the mean over the step's tokens.
        share = rollout.n_tokens(numbers) / rollout.n_tokens([number for number, _ in step])
        figures = self._terms(rollout, numbers, batch.completion, logps, values, share * len(step) / len(examples))
        loss = figures["loss/policy"] + self.config.loss.value_coef * figures["loss/value"]
        if of_texts is not None:
            figures["loss/ptx"] = self._ptx_loss(of_texts, examples, step)
            loss = loss + self.config.ptx.coef * figures["loss/ptx"]
        told = {name: torch.tensor(found, device=self.device) for name, found in rollout.figures.items()}
        return loss, {"loss": loss, **figures, **told}

    def _terms(
        self, rollout: Rollout, numbers: Sequence[int], mask: Tensor, logps: Tensor, values: Tensor, share: float
    ) -> dict[str, Tensor]:
        """Both of PPO's losses, times `share`; and how many ratios are beyond the clip."""
        config = self.config.loss
        old_logps, old_values, advantages, returns = rollout.old(numbers, mask)
        ratio = (logps.detach() - old_logps)[mask].exp()
        return {
            "loss/policy": share * policy_loss(logps, old_logps, advantages, mask, clip=config.clip),
            "loss/value": share * value_loss(values, old_values, returns, mask, clip=config.value_clip),
            "clipped": ((ratio - 1).abs() > config.clip).float().mean(),
        }

    def rollout_of(self, number: int) -> Rollout:
        """The rollout that an answer belongs to; drawn with the weights of now, unless it is at hand."""
        if self._rollout is None or number not in self._rollout.episodes:
            numbers = self.answers.rollout_of(number)
            rank, n = (dist.get_rank(), dist.get_world_size()) if _spread() else (0, 1)
            episodes = _gathered(self.episodes(numbers[rank::n]))
            coef, no_end = self.kl.coef, self.config.reward.no_end
            self._rollout = Rollout.of(episodes, self.config.loss, kl_coef=coef, no_end=no_end)
            if self.config.loss.kl_target is not None:
                self.kl.update(self._rollout.figures["kl"], len(episodes))
        return self._rollout

    def episodes(self, numbers: Sequence[int]) -> list[Episode]:
        """Draw the answers of these numbers."""
        places = [self.prompts.between(number, number + 1)[0] for number in numbers]
        rows = [self.train_rows[index] for index, _ in places]
        return self._drawn(numbers, rows, [draw for _, draw in places])

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Reward and KL to the reference of answers to held-out prompts; of one seed, so that only the policy moves."""
        rows = self.held_out_rows
        if not rows:
            return {}
        episodes = self._drawn(range(len(rows)), rows, [HELD_OUT] * len(rows))
        config = self.config
        found = Rollout.of(episodes, config.loss, kl_coef=self.kl.coef, no_end=config.reward.no_end).figures
        return {f"eval/{name}": found[name] for name in ("reward", "kl", "length", "ended")}

    def _drawn(self, numbers: Sequence[int], rows: Sequence[int], draws: Sequence[int]) -> list[Episode]:
        prompts = [self.examples[row].answers[0].ids for row in rows]
        seeds = [answer_seed(self.config.seed, row, draw) for row, draw in zip(rows, draws, strict=True)]
        lm, end = self.actor_critic.policy.lm, self.encoder.end
        answers = generate(lm, prompts, seeds, self.decoding, end=end, filler=self.filler)
        asked = [self.examples[row] for row in rows]
        scores = scored(self.reward, self.config.reward.source, self.encoder, asked, answers)
        tokens = [Tokens.of(prompt, answer.ids) for prompt, answer in zip(prompts, answers, strict=True)]
        looked = self._looked_at(tokens)
        columns = zip(numbers, tokens, answers, scores, looked, strict=True)
        return [Episode(number, both, answer.ended, score, *seen) for number, both, answer, score, seen in columns]

    @torch.no_grad()
    def _looked_at(self, sequences: Sequence[Tokens]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Log-probabilities, the reference's, and values of each answer's tokens, as an update computes them."""
        found: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        temperature = self.decoding.temperature
        for places in by_length([len(tokens.ids) for tokens in sequences], self.decoding.batch_size):
            batch = pad([sequences[place] for place in places], self.filler).to(self.device)
            logps, values, _ = self.actor_critic(*batch, temperature=temperature)
            ref_logps = self.reference(*batch, temperature=temperature)
            for row, place in enumerate(places):
                mask = batch.completion[row]
                of_logps, of_ref, of_values = (table[row][mask].cpu() for table in (logps, ref_logps, values))
                found[place] = of_logps, of_ref, of_values
        return [found[place] for place in range(len(sequences))]

    def _ptx_loss(self, logps: Tensor, examples: Places, step: Places) -> Tensor:
        """-E[log pi(x)], the mean over the tokens of all texts of the step (Ouyang et al. 2022, eq. 2)."""
        assert self.stream is not None, "texts are from it"
        tokens = sum(text.n_completion for text in self.stream.beside(step))
        return -logps.sum() * (len(step) / len(examples) / tokens)


def _spread() -> bool:
    return dist.is_available() and dist.is_initialized()


def _gathered(episodes: list[Episode]) -> list[Episode]:
    """Those of all processes, in their order."""
    if not _spread():
        return episodes
    found: list[list[Episode]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(found, episodes)
    return sorted((episode for some in found for episode in some), key=lambda episode: episode.number)
