"""GenEval (Ghosh et al. 2023, arXiv 2310.11513): 553 prompts in 6 tasks, 4 images each, checked by an object detector.

The publisher's file is `evaluation_metadata.jsonl`; image k of prompt i is `{i:05d}/samples/{k:04d}.png`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffdpo.benchmarks.objects.rules import COLORS, RULES
from diffdpo.benchmarks.registry import Case, Options, Suite, mixed
from diffdpo.benchmarks.results import Row
from diffdpo.benchmarks.suites.sources import Source, locate
from diffdpo.benchmarks.tables import aligned
from diffdpo.data.prompts import read_rows, text_of
from diffdpo.errors import UserError

SOURCE = Source(("evaluation_metadata.jsonl",), publisher="djghosh13/geneval on GitHub, in its folder `prompts`")
KIND = "task"
REPEATS = 4
_RELATIONS = ("left of", "right of", "above", "below")


def load(options: Options) -> Suite:
    """The prompts, in an order that keeps the mix of tasks, each so many times.

    Raises:
        UserError: the file is not named, cannot be used, or has an entry that is no task.
    """
    from diffdpo.benchmarks.objects.checker import ObjectCheck
    from diffdpo.benchmarks.objects.colors import CLIP, ColorNamer
    from diffdpo.benchmarks.objects.detectors import DETECTOR, TransformersDetector, detector_name

    path = locate(options.data, SOURCE)
    repeats = REPEATS if options.repeats is None else options.repeats
    if repeats < 1:
        raise UserError(f"--repeat {repeats}: at least 1 image for each prompt")
    tasks = read_tasks(path)
    numbers = [Case(task["prompt"], f"{n}", {KIND: task["tag"]}, task) for n, task in enumerate(tasks)]
    detector, colors = options.detector or DETECTOR, options.colors or CLIP
    check = ObjectCheck(
        lambda: TransformersDetector(detector, options.device),
        ColorNamer(colors, options.device),
        sorted({entry["class"] for task in tasks for key in ("include", "exclude") for entry in task.get(key, ())}),
    )
    return Suite(
        name="geneval",
        title="GenEval prompts",
        cases=tuple(
            Case(case.prompt, f"{int(case.name):05d}/samples/{k:04d}", case.categories, case.task)
            for case in mixed(numbers, KIND)
            for k in range(repeats)
        ),
        scorers=(),
        repeats=repeats,
        check=check,
        prepare=check.prepare,
        settings={
            "tasks_sha256": hashlib.sha256(json.dumps(tasks, sort_keys=True).encode()).hexdigest(),
            "detector": detector_name(detector),
            "colors": detector_name(colors),
            "rules": RULES,
        },
        files=(path,),
    )


def figures(rows: Sequence[Row], scorers: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The authors' figures: the share of right images of each task, the mean over tasks, and the share of prompts with
    at least one right image."""
    repeats = int(settings.get("images_per_prompt", 1))
    right = [bool((row.parts or {})["exact"]) for row in rows]
    tasks: dict[str, list[bool]] = {}
    for row, holds in zip(rows, right, strict=True):
        tasks.setdefault(row.categories[KIND], []).append(holds)
    shares = {task: sum(of) / len(of) for task, of in tasks.items()}
    any_right = [any(right[start : start + repeats]) for start in range(0, len(right), repeats)]
    return {
        "tasks": shares,
        "overall": sum(shares.values()) / len(shares),
        "images": sum(right) / len(right),
        "prompts": sum(any_right) / len(any_right),
    }


def table(found: Mapping[str, Any]) -> str:
    """The figures as text."""
    rows = [["GenEval", "right"], *([task, f"{share:.2%}"] for task, share in found["tasks"].items())]
    rows += [["overall, the mean over tasks", f"{found['overall']:.5f}"], ["of all images", f"{found['images']:.2%}"]]
    return aligned([*rows, ["of prompts at least one image", f"{found['prompts']:.2%}"]])


def read_tasks(path: Path) -> list[dict[str, Any]]:
    """The entries of a metadata file.

    Raises:
        UserError: naming the line that is no task.
    """
    tasks = []
    for where, row in read_rows(path):
        if not isinstance(row, dict) or not row.get("include"):
            raise UserError(f"{path}: {where}: no task: it includes no object")
        text_of(path, where, row, ("prompt",)), text_of(path, where, row, ("tag",))
        for number, entry in enumerate(row["include"]):
            _check_entry(f"{path}: {where}", entry, number)
        for entry in row.get("exclude", ()):
            _check_entry(f"{path}: {where}", entry, 0)
        tasks.append(row)
    return tasks


def _check_entry(where: str, entry: Any, number: int) -> None:
    """`number`: how many entries stand before it, one of which a position may refer to."""
    kinds = {"class": str, "count": int}
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), kind) for key, kind in kinds.items()):
        raise UserError(f"{where}: an object without `class` and `count`: {entry!r}")
    if entry.get("color", COLORS[0]) not in COLORS:
        raise UserError(f"{where}: color {entry['color']!r} is none of {', '.join(COLORS)}")
    relation, target = entry.get("position", (_RELATIONS[0], -1))
    if relation not in _RELATIONS or ("position" in entry and not 0 <= target < number):
        raise UserError(f"{where}: position {entry['position']!r} names no relation to an earlier object")
