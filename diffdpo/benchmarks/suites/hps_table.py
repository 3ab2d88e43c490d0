"""The arithmetic of the HPSv2 benchmark and its published table. Pure: scores in, figures out.

Source: the evaluation of tgxs002/HPSv2. Per style, the 800 scores in the order of the publisher's file fall into 10
groups of 80; the style's figure is the mean of the group means, its spread their population standard deviation, both
times 100. The average is over all single scores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from diffdpo.benchmarks.tables import aligned

STYLES = ("anime", "concept-art", "paintings", "photo")
PER_STYLE, GROUP = 800, 80
VERSIONS = {"hpsv2": "v2.0", "hpsv2.1": "v2.1"}
"""Scorer -> which of the published tables its figures belong to."""

PUBLISHED = Path(__file__).with_name("hpsv2_published.json")


def protocol(styles: Sequence[str], scores: Sequence[float], *, scale: float = 100) -> dict[str, Any]:
    """Figures of one scorer.

    Args:
        styles: each image's style, [n]; the images of one style stand in the publisher's order.
        scores: as the scorer gives them, [n].
        scale: what figures are multiplied by; 100 for HPS.

    Returns:
        `styles`: style -> `mean`, `std` (None unless the style has its 800 prompts) and `n`; `average`; `n`.
    """
    found: dict[str, Any] = {}
    for style in (name for name in STYLES if name in styles):
        values = np.array([score for score, of in zip(scores, styles, strict=True) if of == style], dtype=np.float64)
        whole = len(values) == PER_STYLE
        groups = scale * (values.reshape(-1, GROUP).mean(axis=1) if whole else values[None].mean(axis=1))
        found[style] = {
            "mean": float(groups.mean()),
            "std": float(groups.std(ddof=0)) if whole else None,
            "n": len(values),
        }
    return {"styles": found, "average": float(scale * np.mean(scores)), "n": len(scores)}


def standing(
    scorer: str, figures: Mapping[str, Any], made_by: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The place in the published table, and what speaks against reading it as one.

    Args:
        scorer: its name; one that is no published HPS has no place.
        figures: what `protocol` gave.
        made_by: the scorer's own settings.
        settings: the run's.
    """
    if scorer not in VERSIONS:
        return {}
    notes = []
    if any(of["std"] is None for of in figures["styles"].values()) or len(figures["styles"]) < len(STYLES):
        notes.append(f"{figures['n']} images instead of 4 x 800, so the published figures are no measure for these")
    if made_by.get("antialias"):
        notes.append("scored with antialias, the published figures without")
    if settings.get("scorer_weights", {}).get(scorer) is not None:
        notes.append("scored by weights given as a path; only the published ones belong beside these figures")
    name = Path(str(settings.get("model") or settings.get("images"))).name
    lora = settings.get("lora")
    row = [name + (f" + {Path(lora).name}" if lora else ""), *_line(figures)]
    published = _published()["versions"][VERSIONS[scorer]]
    place = 1 + sum(other[-1] > row[-1] for other in published) if len(figures["styles"]) == len(STYLES) else None
    return {"version": VERSIONS[scorer], "row": row, "place": place, "of": len(published) + 1, "notes": notes}


def as_text(scorer: str, found: Mapping[str, Any]) -> str:
    """The figures of one scorer, among the published ones where they have a place."""
    own = found.get("row", [scorer, *_line(found)])
    rows = [_cells(own)]
    if found.get("place") is not None:
        published = _published()["versions"][found["version"]]
        place = found["place"] - 1
        own_cells = [f"> {own[0]}", *_cells(own)[1:]]
        rows = [*map(_cells, published[:place]), own_cells, *map(_cells, published[place:])]
    spread = [found["styles"].get(style, {}).get("std") for style in STYLES]
    header = [f"{scorer}, HPS {found['version']} x 100" if "version" in found else scorer, *STYLES, "average"]
    last = ["std of 10 groups of 80", *("-" if std is None else f"{std:.4f}" for std in spread), ""]
    notes = [f"note: {note}" for note in found.get("notes", ())]
    return "\n".join([aligned([header, *rows, last]), *notes])


def _line(figures: Mapping[str, Any]) -> list[float | None]:
    """Means by style and the average, as they are printed: two decimals."""
    means = [figures["styles"].get(style, {}).get("mean") for style in STYLES]
    return [None if mean is None else round(mean, 2) for mean in (*means, figures["average"])]


def _cells(row: Sequence[Any]) -> list[str]:
    return [str(row[0]), *("-" if value is None else f"{value:.2f}" for value in row[1:])]


@cache
def _published() -> Any:
    return json.loads(PUBLISHED.read_text(encoding="utf-8"))
