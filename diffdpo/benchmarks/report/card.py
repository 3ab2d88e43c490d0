"""The Markdown model card beside a report: what was measured, for people and for the Hugging Face hub.

Its figures are those of the comparison. How the model was trained is told by the training run and handed in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from diffdpo.benchmarks import statistics, words
from diffdpo.benchmarks.compare import Comparison
from diffdpo.benchmarks.markdown import compared, table
from diffdpo.benchmarks.numbers import comparison_json
from diffdpo.benchmarks.results import BenchRun
from diffdpo.benchmarks.settings import flat

FILE = "model_card.md"
_EXPORTED = ("model", "lora")
"""Names that a training run gives to what it leaves: its own name says more."""


def card(comparison: Comparison, after: BenchRun, training: Mapping[str, Sequence[str]]) -> str:
    """The card of the model that `after` measured.

    Args:
        training: how it was trained: a heading -> lines of Markdown.
    """
    title = _title(after)
    first, backing = words.headline(comparison)
    summary = [f"**{first}.** {backing}", *filter(None, [words.judge_sentence(comparison)])]
    sections = {
        "Evaluation": compared(comparison_json(comparison)),
        "Where it moved": _categories(comparison),
        "How the images drifted": _drift(comparison),
        **training,
        "How it was measured": _settings(after),
        "Limitations": _limitations(comparison),
        "Made with": [", ".join(f"{name} {version}" for name, version in after.manifest["versions"].items())],
    }
    body = [f"## {name}\n\n" + "\n".join(lines) for name, lines in sections.items() if lines]
    front = yaml.safe_dump(_front(comparison, title), sort_keys=False, allow_unicode=True)
    return "\n\n".join([f"---\n{front}---", f"# {title}", " ".join(summary), *body]) + "\n"


def _title(run: BenchRun) -> str:
    """The model's hub name, or the name of its file or folder without the way to it."""
    key = "lora" if run.settings.get("lora") else "model"
    name = run.settings.get(key)
    if name is None:
        return run.folder.name
    if run.settings.get(f"{key}_sha256") is None:  # of a local one the content is recorded
        return str(name)
    path = Path(name)
    return path.parent.name if path.name in _EXPORTED else path.stem


def _front(comparison: Comparison, title: str) -> dict[str, Any]:
    """What the hub reads: `model-index` is its form for measured results."""
    metrics = [
        {"type": m.name, "name": words.name(m), "value": round(m.contrast.b.mean, 6)}
        for m in (*comparison.parts, *comparison.scores)
    ]
    result = {
        "task": {"type": "text-to-image"},
        "dataset": {"name": f"{comparison.prompts} {comparison.title}", "type": comparison.suite},
        "metrics": metrics,
    }
    return {
        "pipeline_tag": "text-to-image",
        "tags": ["text-to-image", "preference-tuning"],
        "model-index": [{"name": title, "results": [result]}],
    }


def _categories(comparison: Comparison) -> list[str]:
    effects, rate = comparison.headline_effects, comparison.headline.group == "parts"
    if not effects:
        return []
    rows = []
    for effect in effects:
        change, finding = words.difference(effect.difference, rate=rate), statistics.verdict(effect.difference)
        rows.append([f"{effect.kind}: {effect.category}", str(effect.a.n), *change, finding])
    unit = ", points" if rate else ""
    heads = ["", "prompts", f"change of {words.name(comparison.headline)}{unit}", "95% interval", "finding"]
    return [*table(heads, rows), "", "Among many categories some stand out by chance."]


def _drift(comparison: Comparison) -> list[str]:
    rows = []
    for measure in comparison.drift:
        before, after = (words.value(measure, side)[0] for side in (measure.contrast.a, measure.contrast.b))
        rows.append([words.name(measure), before, after, *words.change(measure), measure.verdict])
    if not rows:
        return []
    far = words.distance_sentence(comparison)
    told = "Neither direction is better; a scorer may be following what drifts."
    heads = ["", "before", "after", "change", "95% interval", "finding"]
    return [*table(heads, rows), "", told + (f" {far}" if far else "")]


def _settings(run: BenchRun) -> list[str]:
    known = {**flat(run.settings), **flat(run.summary.get("scorers", {}), "scorer")}
    rows = [[key, f"`{value}`"] for key, value in known.items() if value not in ("null", "{}")]
    return table(["setting", "value"], rows)


def _limitations(comparison: Comparison) -> list[str]:
    scored = "- A scorer is a model's opinion with tastes and blind spots of its own, not a person's."
    return [
        "- The intervals cover the choice of prompts. They do not cover another training seed.",
        *([scored] if comparison.scores else []),
        "- Prompts unlike these were not measured.",
        "- The model keeps the abilities and biases of its base model, whose licence holds for it too.",
    ]
