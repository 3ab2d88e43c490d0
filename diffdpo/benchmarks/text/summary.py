"""From a line for each prompt to means with 95% intervals over the prompts. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from diffdpo.benchmarks import statistics
from diffdpo.benchmarks.text.blocks import Row
from diffdpo.benchmarks.text.style import distinct, n_words, repeated


def summary_of(rows: Sequence[Row], texts: Sequence[Row], baseline_texts: Sequence[Row]) -> dict[str, Any]:
    """All measures of a run; those that it has nothing for are left out.

    Args:
        rows: `results.jsonl`.
        texts, baseline_texts: `logp` and `tokens` of each plain text, by the model and by the baseline.
    """
    answers = {name: [row[column] for row in rows] for name, column in _ANSWERS.items()}
    found: dict[str, Any] = {
        "prompts": len(rows),
        "win_rate": win_rate([row["outcome"] for row in rows]),
        "words": contrast(*([n_words(text) for text in some] for some in answers.values())),
        "ended": contrast(*([row[name] for row in rows] for name in ("baseline_ended", "ended"))),
        "repeated": contrast(*([repeated(text) for text in some] for some in answers.values())),
        "distinct": {str(n): {name: distinct(some, n) for name, some in answers.items()} for n in (1, 2, 3)},
    }
    if "score" in rows[0]:
        found["score"] = contrast(*([row[name] for row in rows] for name in ("baseline_score", "score")))
    if "log_ratio" in rows[0]:
        found["kl"] = {
            **estimate([row["log_ratio"] for row in rows]),
            "per_token": sum(row["log_ratio"] for row in rows) / sum(row["tokens"] for row in rows),
        }
    if texts:
        found["perplexity"] = perplexities(texts, baseline_texts)
    if "flagged" in rows[0]:
        both = ([row[name] for row in rows] for name in ("baseline_flagged", "flagged"))
        found["flagged"] = {**contrast(*both), "prompts": sum(row["flagged_prompt"] for row in rows) / len(rows)}
    return found


_ANSWERS = {"baseline": "baseline_answer", "model": "answer"}


def win_rate(outcomes: Sequence[float]) -> dict[str, Any]:
    """Wins, ties and losses of the model, and its rate, in which a tie counts half.

    Args:
        outcomes: 1, 0.5 or 0 of each prompt.
    """
    wins = statistics.wins([1 - outcome for outcome in outcomes], outcomes)
    return {
        "wins": wins.wins,
        "ties": wins.ties,
        "losses": wins.losses,
        **_spelled(wins.rate),
        "p_value": wins.p_value,
    }


def perplexities(texts: Sequence[Row], baseline: Sequence[Row]) -> dict[str, Any]:
    """Per token, end tokens included: exp of the mean over all tokens of -log p. The interval is of the ratio of the
    model's to the baseline's, over texts, each by its own mean per token."""

    def of(some: Sequence[Row]) -> float:
        return math.exp(-sum(row["logp"] for row in some) / sum(row["tokens"] for row in some))

    losses = [[-row["logp"] / row["tokens"] for row in some] for some in (baseline, texts)]
    ratio = statistics.paired_difference(*losses)
    return {
        "model": of(texts),
        "baseline": of(baseline),
        "texts": len(texts),
        "ratio": {
            "mean": math.exp(ratio.mean),
            "low": math.exp(ratio.interval.low),
            "high": math.exp(ratio.interval.high),
        },
    }


def contrast(baseline: Sequence[float], model: Sequence[float]) -> dict[str, Any]:
    """Both sides and by how much the model is above the baseline, prompt by prompt."""
    return {
        "model": estimate(model),
        "baseline": estimate(baseline),
        "difference": _spelled(statistics.paired_difference(baseline, model)),
    }


def estimate(values: Sequence[float]) -> dict[str, float]:
    return _spelled(statistics.mean_estimate(values))


def _spelled(found: statistics.Estimate) -> dict[str, float]:
    interval: Mapping[str, float] = dataclasses.asdict(found.interval)
    return {"mean": found.mean, **interval}
