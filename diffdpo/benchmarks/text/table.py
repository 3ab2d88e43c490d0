"""A text run in words and figures, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffdpo.benchmarks.tables import aligned

_ROWS = {
    "score": ("score", ".3f"),
    "words": ("words", ".1f"),
    "ended": ("answers that end", ".1%"),
    "repeated": ("repeated 4-grams", ".1%"),
    "flagged": ("flagged", ".1%"),
}


def told(summary: Mapping[str, Any]) -> str:
    """All measures of `summary.json`, and who judged."""
    win = summary["win_rate"]
    lines = [
        f"{summary['prompts']} prompts, judged by {summary['judge']}, in {summary['out']}",
        f"win rate {win['mean']:.1%} ({win['low']:.1%} to {win['high']:.1%}): "
        f"{win['wins']} won, {win['ties']} tied, {win['losses']} lost",
    ]
    rows = [["", "baseline", "model", "difference", "95% interval"]]
    rows += [_contrast(summary[name], *spec) for name, spec in _ROWS.items() if name in summary]
    lines += ["", aligned(rows), "", _distinct(summary["distinct"])]
    if "kl" in summary:
        kl = summary["kl"]
        lines.append(f"KL from the reference, nats an answer: {_range(kl, '.3f')}; a token: {kl['per_token']:.4f}")
    if "perplexity" in summary:
        found = summary["perplexity"]
        lines.append(
            f"perplexity of {found['texts']} plain texts: {found['baseline']:.3f} before, {found['model']:.3f} now, "
            f"{_range(found['ratio'], '.3f')} times"
        )
    if "flagged" in summary:
        lines.append(f"prompts flagged: {summary['flagged']['prompts']:.1%}")
    return "\n".join(lines)


def _contrast(found: Mapping[str, Any], name: str, form: str) -> list[str]:
    difference = found["difference"]
    sides = [format(found[side]["mean"], form) for side in ("baseline", "model")]
    interval = f"{format(difference['low'], '+' + form)} to {format(difference['high'], '+' + form)}"
    return [name, *sides, format(difference["mean"], "+" + form), interval]


def _distinct(found: Mapping[str, Mapping[str, float]]) -> str:
    parts = [f"{n}-grams {shares['baseline']:.3f} and {shares['model']:.3f}" for n, shares in found.items()]
    return f"different among all, baseline and model: {', '.join(parts)}"


def _range(found: Mapping[str, float], form: str) -> str:
    return f"{format(found['mean'], form)} ({format(found['low'], form)} to {format(found['high'], form)})"
