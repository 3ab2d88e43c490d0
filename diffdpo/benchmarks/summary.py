"""A run's rows in a few figures: means with intervals, by category, and the suite's own arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffdpo.benchmarks import registry, statistics
from diffdpo.benchmarks.results import Row

GROUPS = ("parts", "scores", "look")


def summarize(
    title: str, rows: Sequence[Row], scorers: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What `summary.json` holds of a whole run.

    Args:
        title: what the images are of.
        scorers: what made each score.
        settings: the run's, from which a part's own are left out.
    """
    suite, repeats = settings["suite"], int(settings.get("images_per_prompt", 1))
    found: dict[str, Any] = {
        "suite": suite,
        "title": title,
        "prompts": len(rows) // repeats,
        "images": len(rows),
        "sizes": sorted({tuple(row.size) for row in rows if row.size}),
        **{group: _means(rows, group, repeats) for group in GROUPS},
        "categories": _by_category(rows, repeats),
        "scorers": dict(scorers),
    }
    figures = getattr(registry.suite_module(suite), "figures", None) if suite in registry.SUITES else None
    return found if figures is None else {**found, "figures": figures(rows, scorers, settings)}


def _means(rows: Sequence[Row], group: str, repeats: int) -> dict[str, Any]:
    names = getattr(rows[0], group) or {}
    return {name: _estimate([getattr(row, group)[name] for row in rows], repeats) for name in names}


def _by_category(rows: Sequence[Row], repeats: int) -> dict[str, dict[str, Any]]:
    """Kind -> category -> the exact check's rate and every scorer's mean."""
    groups: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        for kind, category in row.categories.items():
            groups.setdefault(kind, {}).setdefault(category, []).append(row)
    return {
        kind: {
            category: {
                **{name: part for name, part in _means(of, "parts", repeats).items() if name == "exact"},
                **_means(of, "scores", repeats),
            }
            for category, of in sorted(categories.items())
        }
        for kind, categories in groups.items()
    }


def _estimate(values: Sequence[Any], repeats: int) -> dict[str, Any]:
    """Mean and interval over prompts: images of one prompt are no independent draws, so they are averaged first.

    Booleans stay what they are where the images of each prompt agree, as a rate of 0 or 1 has an interval of its own.
    """
    images = np.asarray(values).reshape(-1, repeats)
    agree = images.dtype == np.bool_ and (images == images[:, :1]).all()
    prompts = images[:, 0] if agree else images.mean(axis=1)
    if len(prompts) < registry.MIN_PROMPTS:
        return {"mean": float(prompts[0]), "low": None, "high": None, "n": 1}
    found = statistics.mean_estimate(prompts)
    return {"mean": found.mean, "low": found.interval.low, "high": found.interval.high, "n": found.n}
