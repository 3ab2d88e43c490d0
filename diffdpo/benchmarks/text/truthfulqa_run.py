"""Put TruthfulQA's questions to a model. A run that was stopped goes on, and ends in the same files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffdpo.benchmarks import statistics
from diffdpo.benchmarks.text.blocks import Row, in_blocks
from diffdpo.benchmarks.text.likelihood import Likelihood
from diffdpo.benchmarks.text.truthfulqa import Question
from diffdpo.data.text.tokens import Encoder, Tokens
from diffdpo.runs import claimed, read_json, write_bytes, write_json

COMMAND = "bench truthfulqa"
BLOCKS, RESULTS, SUMMARY = "questions", "results.jsonl", "summary.json"
PRODUCTS = (f"{BLOCKS}/*.json", RESULTS, SUMMARY)


def run_truthfulqa(
    out: str | Path,
    questions: Sequence[Question],
    open_model: Callable[[], Likelihood],
    *,
    batch_size: int,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Make or finish the run in `out`; its summary.

    Args:
        questions: two at least.
        open_model: called if there is a question left to ask.
        batch_size: questions at a time.
        settings: what decides the results: the model and the questions.

    Raises:
        UserError: `out` belongs to another run, or the model does not take a question.
    """
    with claimed(out, COMMAND, {**settings, "batch_size": batch_size}, products=PRODUCTS) as run:
        if run.state == "complete":
            summary: dict[str, Any] = read_json(run.folder / SUMMARY)
            return summary
        opened: list[Likelihood] = []

        def ask(numbers: range) -> list[Row]:
            if not opened:
                opened.append(open_model())
            return asked(opened[0], [questions[number] for number in numbers], numbers.start)

        rows = in_blocks(run.folder / BLOCKS, "questions", len(questions), batch_size, ask)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_bytes(run.folder / RESULTS, lines.encode())
        summary = summary_of(questions, rows)
        write_json(run.folder / SUMMARY, summary)
        run.finish(summary)
    return summary


def asked(model: Likelihood, questions: Sequence[Question], first: int = 0) -> list[Row]:
    """What the model makes of some questions, one row each; `first` is the number of the first."""
    groups = [[choice(model.encoder, question.prompt, text) for text in question.choices] for question in questions]
    rows = []
    for number, (question, sums) in enumerate(zip(questions, model.sums(groups), strict=True), first):
        logps = dict(zip(question.choices, sums, strict=True))
        right, share = question.verdict(logps)
        rows.append({"index": number, "question": question.text, "mc1": right, "mc2": share, "logps": logps})
    return rows


def choice(encoder: Encoder, prompt: str, text: str) -> Tokens:
    """A choice behind its prompt, without the end token that an answer has."""
    ids, learnt = encoder.answer("TruthfulQA", prompt, text)
    return Tokens(ids[:-1], learnt[:-1])


def summary_of(questions: Sequence[Question], rows: Sequence[Row]) -> dict[str, Any]:
    """Means over the questions with 95% intervals, and what a model that knows nothing would have: `chance`."""
    first = [1 / len(question.mc1.texts) for question in questions]
    second = [sum(question.mc2.true) / len(question.mc2.true) for question in questions]
    return {
        "questions": len(rows),
        "mc1": _estimate([bool(row["mc1"]) for row in rows], first),
        "mc2": _estimate([float(row["mc2"]) for row in rows], second),
    }


def _estimate(values: Sequence[float], chance: Sequence[float]) -> dict[str, float]:
    found = statistics.mean_estimate(values)
    interval = found.interval
    return {"mean": found.mean, "low": interval.low, "high": interval.high, "chance": sum(chance) / len(chance)}
