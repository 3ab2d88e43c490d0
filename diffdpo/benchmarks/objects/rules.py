"""GenEval's rules (Ghosh et al. 2023, arXiv 2310.11513): from detected objects to right or wrong. Pure.

A task, as in the published `evaluation_metadata.jsonl`: `tag`, `prompt`, `include`: [{`class`, `count`, perhaps
`color`, perhaps `position`: [relation, number of an earlier entry]}], perhaps `exclude`: [{`class`, `count`}].
The numbers are those of the authors' evaluation (djghosh13/geneval).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffdpo.benchmarks.registry import Verdict

CONFIDENCE = 0.3
"""A detection must be above it."""
COUNTING_CONFIDENCE = 0.9
"""Where objects are counted, which doubtful ones would spoil."""
MOST = 16
"""Objects of one class that are looked at."""
MARGIN = 0.1
"""Share of both objects' sizes that their centres may be apart without a relation."""
RULES = {"confidence": CONFIDENCE, "counting_confidence": COUNTING_CONFIDENCE, "most": MOST, "margin": MARGIN}

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")


@dataclass(frozen=True, eq=False)
class Found:
    """A detected object."""

    label: str
    score: float
    box: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels."""
    mask: NDArray[np.bool_] | None = None
    """The object's pixels, [H, W] of the image, from a detector that knows them."""


ColorsOf = Callable[[Sequence[Found]], Sequence[str]]
"""Objects of one class -> a colour for each."""


def judge(task: Mapping[str, Any], found: Sequence[Found], colors_of: ColorsOf) -> Verdict:
    """Whether all that the task asks for is there, and nothing that it excludes."""
    objects = by_class(found, COUNTING_CONFIDENCE if task["tag"] == "counting" else CONFIDENCE)
    faults: list[str] = []
    matched: list[list[Found]] = []
    """The objects that meet each entry of `include`; none where it is not met."""
    for wanted in task.get("include", ()):
        best = objects.get(wanted["class"], [])[: wanted["count"]]
        fault = _fault(wanted, best, matched, colors_of)
        matched.append([] if fault else best)
        faults += [fault] if fault else []
    for excluded in task.get("exclude", ()):
        count = len(objects.get(excluded["class"], []))
        if count >= excluded["count"]:
            faults.append(f"{excluded['class']}: fewer than {excluded['count']} wanted, {count} found")
    return Verdict({"exact": not faults}, "; ".join(faults))


def by_class(found: Sequence[Found], confidence: float) -> dict[str, list[Found]]:
    """Detections above a confidence by class, the surest first, at most `MOST` of each."""
    objects: dict[str, list[Found]] = {}
    for one in sorted(found, key=lambda one: -one.score):
        if one.score > confidence and len(objects.setdefault(one.label, [])) < MOST:
            objects[one.label].append(one)
    return objects


def relations(a: Found, b: Found) -> set[str]:
    """Where `a` is as seen from `b`: none, one or two of `left of`, `right of`, `above`, `below`.

    The distance of the centres, less `MARGIN` of both objects' sizes on each axis, must be more than half of the whole
    distance on an axis to count there.
    """
    box_a, box_b = (np.array(one.box, dtype=np.float64).reshape(2, 2) for one in (a, b))
    offset = box_a.mean(axis=0) - box_b.mean(axis=0)
    sizes = np.abs(box_a[1] - box_a[0]) + np.abs(box_b[1] - box_b[0])
    clear = np.sign(offset) * np.maximum(np.abs(offset) - MARGIN * sizes, 0)
    if (np.abs(clear) < 1e-3).all():
        return set()
    right, down = clear / np.linalg.norm(offset)
    held = {"left of": right < -0.5, "right of": right > 0.5, "above": down < -0.5, "below": down > 0.5}
    return {relation for relation, holds in held.items() if holds}


def _fault(
    wanted: Mapping[str, Any], best: Sequence[Found], matched: Sequence[Sequence[Found]], colors_of: ColorsOf
) -> str:
    """What of one entry of `include` does not hold; empty if all does. `best` are the surest of its class."""
    name, count = wanted["class"], wanted["count"]
    if len(best) < count:
        return f"{name}: {count} wanted, {len(best)} found"
    if "color" in wanted:
        colors = Counter(colors_of(best))
        if colors[wanted["color"]] < count:
            told = ", ".join(f"{number} {color}" for color, number in colors.items())
            return f"{name}: {count} {wanted['color']} wanted, found {told}"
    if "position" in wanted:
        relation, target = wanted["position"]
        if not matched[target]:
            return f"{name}: nothing for it to be {relation}"
        for one in best:
            for other in matched[target]:
                held = relations(one, other)
                if relation not in held:
                    return f"{name}: {relation} wanted, is {' and '.join(sorted(held)) or 'at the same place'}"
    return ""
