"""All figures of one run as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffdpo.benchmarks import registry, words
from diffdpo.benchmarks.tables import aligned, summary_table


def run_text(summary: Mapping[str, Any]) -> str:
    """The measures of one run, the suite's own figures, and the measures by category."""
    found = [summary_table(summary)] if summary["parts"] or summary["scores"] else []
    if "figures" in summary:
        found.append(registry.suite_module(summary["suite"]).table(summary["figures"]))
    found += [category_table(kind, groups) for kind, groups in summary.get("categories", {}).items()]
    return "\n\n".join(found)


def category_table(kind: str, categories: Mapping[str, Mapping[str, Any]]) -> str:
    """The mean of each measure in each category of one kind."""
    names = list(next(iter(categories.values())))
    rows = [[kind, *(["prompts"] if names else []), *names]]
    for category, measures in categories.items():
        cells = [(words.percent if name == "exact" else words.number)(measures[name]["mean"]) for name in names]
        count = [str(measures[name]["n"]) for name in names[:1]]
        rows.append([category, *count, *cells])
    return aligned(rows)
