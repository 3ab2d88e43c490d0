"""`method: sft`: the likelihood of demonstrations, per token of the answer (Ouyang et al. 2022, step 1)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from diffdpo.models.text.causal_lm import completion_logps
from diffdpo.objectives.draws import derived_seed
from diffdpo.training.text.choice import HeldOutAnswers
from diffdpo.training.text.recipe import Places, TextRecipe


class TextSft(TextRecipe):
    """Every token of every answer in a step weighs the same, whatever micro-step or process it falls to.

    Args:
        dropout: whether the network has any; what it drops is a function of the seed and the examples.
        answers: what to choose a checkpoint by; None for none.
    """

    def __init__(
        self, *args: Any, dropout: bool = False, seed: int = 0, answers: HeldOutAnswers | None = None, **keywords: Any
    ) -> None:
        super().__init__(*args, **keywords)
        self.seed, self.answers = seed, answers
        if dropout:
            self.network.train()

    def loss(self, network: nn.Module, examples: Places) -> tuple[Tensor, dict[str, Tensor]]:
        batch = self.batch([self.train_rows[index] for index, _ in examples])
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(derived_seed("dropout", self.seed, *examples[0]))
            logps = completion_logps(network, batch).sums
        step = self.whole_step(examples)
        tokens = sum(self.examples[row].answers[0].n_completion for row in step)
        # The loop takes the mean over micro-steps and processes: this makes it the mean over the step's tokens.
        loss = -logps.sum() * (len(step) / len(examples) / tokens)
        return loss, {"loss": loss}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The same mean over all held-out tokens, and its exponential."""
        if not self.held_out_rows:
            return {}
        training = self.network.training
        self.network.eval()
        total, tokens = 0.0, 0
        for rows in self.held_out_parts():
            found = completion_logps(self.network, self.batch(rows))
            total -= float(found.sums.double().sum())
            tokens += int(found.counts.sum())
        rewards = self.answers.figures(self.network.lm) if self.answers else {}
        self.network.train(training)
        return {"eval/loss": total / tokens, "eval/perplexity": math.exp(min(total / tokens, 700.0)), **rewards}
