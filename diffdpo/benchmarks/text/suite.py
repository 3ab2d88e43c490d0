"""A language model against a fixed baseline on the same prompts and seeds: answers, verdicts, and what tuning cost.

    answers/, baseline/   what both wrote         reference/      the reference's likelihood of the model's answers
    texts/, texts_baseline/  likelihood of plain texts            verdicts/, flags/
    results.jsonl         a line for each prompt                  summary.json    means and intervals

Each stage is kept a block of prompts at a time. A run that was stopped goes on where it stood, and ends in the same
files. One model is in memory at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from diffdpo.benchmarks.text.blocks import Row, in_blocks
from diffdpo.benchmarks.text.judges import TextJudge
from diffdpo.benchmarks.text.likelihood import Likelihood
from diffdpo.benchmarks.text.speaker import Speaker
from diffdpo.benchmarks.text.summary import summary_of
from diffdpo.data.text.moderation import Moderator
from diffdpo.data.text.records import Prompt, prompt_text
from diffdpo.data.text.tokens import Tokens
from diffdpo.models.text.generation import Decoding, answer_seed
from diffdpo.runs import claimed, read_json, write_bytes, write_json

COMMAND = "bench text"
RESULTS, SUMMARY = "results.jsonl", "summary.json"
STAGES = ("answers", "baseline", "reference", "texts", "texts_baseline", "verdicts", "flags")
PRODUCTS = (*(f"{stage}/*.json" for stage in STAGES), RESULTS, SUMMARY)

T = TypeVar("T")
Open = Callable[[], Likelihood]


@dataclass(frozen=True)
class TextSuite:
    """What is asked, and how."""

    prompts: Sequence[Prompt]
    """Two at least, as for an interval."""
    texts: Sequence[str]
    """Plain texts for the perplexity: two at least, or none."""
    decoding: Decoding
    seed: int = 0


@dataclass(frozen=True)
class Contestants:
    """How the models are opened; each is when a stage needs it."""

    model: Open
    baseline: Open
    reference: Open | None
    """None: there is no KL, since the reference's tokens are others. The baseline's own is not opened again."""


def run_text_suite(
    out: str | Path,
    suite: TextSuite,
    models: Contestants,
    judge: Callable[[], TextJudge],
    moderator: Callable[[], Moderator] | None,
    *,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Make or finish the run in `out`; its summary.

    Args:
        settings: all that decides the results. Stored, and compared when a run goes on.

    Raises:
        UserError: `out` belongs to another run, or an input cannot be used.
        ScorerError: an endpoint gives no answer.
    """
    with claimed(out, COMMAND, settings, products=PRODUCTS) as run:
        if run.state == "complete":
            summary: dict[str, Any] = read_json(run.folder / SUMMARY)
            return summary
        stages = _Stages(run.folder, suite)
        rows, own_texts, their_texts = _without_judge(stages, models)
        for more in (stages.verdicts(rows, judge), stages.flags(rows, moderator)):
            rows = [{**row, **added} for row, added in zip(rows, more, strict=True)]
        lines = [json.dumps({"index": place, **row}, ensure_ascii=False) + "\n" for place, row in enumerate(rows)]
        write_bytes(run.folder / RESULTS, "".join(lines).encode())
        summary = summary_of(rows, own_texts, their_texts)
        write_json(run.folder / SUMMARY, summary)
        run.finish(summary)
    return summary


def _without_judge(stages: _Stages, models: Contestants) -> tuple[list[Row], list[Row], list[Row]]:
    """The rows of the prompts, and both models' likelihoods of the plain texts. No model is kept beyond it."""
    ours, own_texts = stages.of("", stages.opening(models.model))
    baseline = stages.opening(models.baseline)
    theirs, their_texts = stages.of("baseline", baseline)
    rows = [_row(*both) for both in zip(stages.suite.prompts, ours, theirs, strict=True)]
    if models.reference is not None:
        reference = baseline if models.reference is models.baseline else stages.opening(models.reference)
        del baseline
        for row, found in zip(rows, stages.reference(ours, reference), strict=True):
            row["log_ratio"] = row["logp"] - found["logp"]
    return rows, own_texts, their_texts


def _row(prompt: Prompt, ours: Row, theirs: Row) -> Row:
    """What is known of one prompt's answers without a judge."""
    return {
        "prompt": prompt_text(prompt),
        "answer": ours["text"],
        "baseline_answer": theirs["text"],
        "tokens": sum(ours["completion"]),
        "logp": ours["logp"],
        "ended": ours["ended"],
        "baseline_ended": theirs["ended"],
    }


class _Stages:
    """The stages of one run, each in a folder of its own."""

    def __init__(self, folder: Path, suite: TextSuite) -> None:
        self.folder, self.suite = folder, suite
        self.size = suite.decoding.batch_size

    def opening(self, open_model: Open) -> _Once[Speaker]:
        return _Once(lambda: Speaker(open_model(), self.suite.decoding))

    def of(self, name: str, model: _Once[Speaker]) -> tuple[list[Row], list[Row]]:
        """Answers to the prompts and likelihoods of the plain texts, by one model."""
        answers, texts = (name or "answers"), ("texts_baseline" if name else "texts")
        prompts, plain = self.suite.prompts, self.suite.texts

        def write(numbers: range) -> list[Row]:
            seeds = [answer_seed("bench", self.suite.seed, number) for number in numbers]
            found = model.get().answers([prompts[number] for number in numbers], seeds)
            logps = model.get().logps([written.tokens for written in found])
            return [
                {**written.tokens._asdict(), "text": written.text, "ended": written.ended, "logp": logp}
                for written, logp in zip(found, logps, strict=True)
            ]

        def read(numbers: range) -> list[Row]:
            found = model.get().likelihood.texts([plain[number] for number in numbers])
            return [{"logp": logp, "tokens": count} for logp, count in found]

        return self._rows(answers, len(prompts), write), self._rows(texts, len(plain), read)

    def reference(self, answers: Sequence[Row], model: _Once[Speaker]) -> list[Row]:
        def read(numbers: range) -> list[Row]:
            some = [Tokens(tuple(answers[n]["ids"]), tuple(answers[n]["completion"])) for n in numbers]
            return [{"logp": logp} for logp in model.get().logps(some)]

        return self._rows("reference", len(answers), read)

    def verdicts(self, rows: Sequence[Row], open_judge: Callable[[], TextJudge]) -> list[Row]:
        judge = _Once(open_judge)

        def compare(numbers: range) -> list[Row]:
            some = [rows[number] for number in numbers]
            answers = [[row[name] for row in some] for name in ("answer", "baseline_answer")]
            found = judge.get().compare([self.suite.prompts[number] for number in numbers], *answers)
            return [judged.spelled() for judged in found]

        return self._rows("verdicts", len(rows), compare)

    def flags(self, rows: Sequence[Row], open_moderator: Callable[[], Moderator] | None) -> list[Row]:
        if open_moderator is None:
            return [{} for _ in rows]
        moderator = _Once(open_moderator)
        names = {"prompt": "flagged_prompt", "answer": "flagged", "baseline_answer": "baseline_flagged"}

        def flag(numbers: range) -> list[Row]:
            some = [rows[number] for number in numbers]
            columns = [moderator.get().flagged([row[name] for row in some]) for name in names]
            return [dict(zip(names.values(), flags, strict=True)) for flags in zip(*columns, strict=True)]

        return self._rows("flags", len(rows), flag)

    def _rows(self, name: str, n: int, make: Callable[[range], list[Row]]) -> list[Row]:
        return in_blocks(self.folder / name, name, n, self.size, make)


class _Once(Generic[T]):
    """Opened when it is first wanted; gone with the last stage that asks it."""

    def __init__(self, open_it: Callable[[], T]) -> None:
        self._open, self._opened = open_it, list[T]()

    def get(self) -> T:
        if not self._opened:
            self._opened.append(self._open())
        return self._opened[0]
