"""Which checkpoint of an SFT run is kept: the one whose answers a reward likes best (Ouyang et al. 2022, sec. 3.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from diffdpo.config import ChoiceConfig
from diffdpo.data.text.examples import Example, Limits, examples
from diffdpo.data.text.readers import TextSource
from diffdpo.data.text.records import Document, Reward
from diffdpo.data.text.tokens import Encoder
from diffdpo.errors import UserError
from diffdpo.models.text.generation import Decoding, answer_seed, generate
from diffdpo.training import checkpoints
from diffdpo.training.checkpoints import Checkpoint
from diffdpo.training.metrics import read_metrics
from diffdpo.training.text.prepare import Prepared
from diffdpo.training.text.scoring import scored

FIGURE = "eval/reward"


@dataclass(frozen=True)
class HeldOutAnswers:
    """Answers to held-out prompts, drawn with one seed throughout, so that only the model moves their mean reward."""

    asked: Sequence[Example]
    config: ChoiceConfig
    encoder: Encoder
    reward: Reward
    seed: int

    def figures(self, lm: Any) -> dict[str, float]:
        """Mean reward, an answer that did not end counting `choose.no_end`, and the share that ended."""
        prompts = [example.answers[0].ids for example in self.asked]
        seeds = [answer_seed(self.seed, number, -1) for number in range(len(prompts))]
        decoding = Decoding(self.config.max_tokens)
        answers = generate(lm, prompts, seeds, decoding, end=self.encoder.end, filler=self.encoder.pad)
        scores = scored(self.reward, str(self.config.by), self.encoder, self.asked, answers)
        rewards = [score if answer.ended else self.config.no_end for score, answer in zip(scores, answers, strict=True)]
        return {FIGURE: fmean(rewards), "eval/ended": fmean(answer.ended for answer in answers)}


def held_out_prompts(config: ChoiceConfig, source: TextSource, prepared: Prepared) -> list[Example]:
    """The prompts of the first held-out records, `choose.prompts` at most.

    Raises:
        UserError: there is none.
    """
    room = prepared.limits.max_length - config.max_tokens
    if room < 1:
        raise UserError(
            f"choose.max_tokens: answers of {config.max_tokens} tokens leave no room for a prompt within "
            f"{prepared.limits.max_length}"
        )
    held_out = {prepared.examples[row].where for row in prepared.held_out_rows}
    records = (record for record in source.records if record.where in held_out and not isinstance(record, Document))
    limits = Limits(prepared.limits.max_length, room, prepared.limits.truncation)
    found, count = examples(records, "prompts", prepared.encoder, limits)
    if not found:
        raise UserError(f"choose.by: no held-out prompt to answer ({count.told()})")
    return found[: config.prompts]


def best_checkpoint(folder: Path, run: str) -> Checkpoint:
    """The checkpoint of the highest held-out reward; of equal ones the first."""
    rewards = {row["step"]: row[FIGURE] for row in read_metrics(folder / "metrics.jsonl") if FIGURE in row}
    there = [step for step in checkpoints.steps(folder / "checkpoints") if step in rewards]
    best = max(sorted(there), key=rewards.__getitem__)
    found = checkpoints.newest(folder / "checkpoints", run, step=best)
    if found is None:
        raise UserError(f"{folder}: the checkpoint of step {best}, which is the best, is damaged; remove it and go on")
    return found
