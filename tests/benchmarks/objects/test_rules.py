"""GenEval's rules with detections whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from diffdpo.benchmarks.objects.rules import Found, judge, relations


def found(label: str, left: float = 0, top: float = 0, *, score: float = 0.95, size: float = 10) -> Found:
    return Found(label, score, (left, top, left + size, top + size))


def red(objects: Sequence[Found]) -> list[str]:
    """The left half of the picture is red, the right half blue."""
    return ["red" if one.box[0] < 50 else "blue" for one in objects]


def task(tag: str, *include: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"tag": tag, "prompt": "p", "include": list(include), **more}


def entry(label: str, count: int = 1, **more: Any) -> dict[str, Any]:
    return {"class": label, "count": count, **more}


TWO = task("two_object", entry("dog"), entry("cat"))
COUNT = task("counting", entry("cat", 2), exclude=[entry("cat", 3)])
COLOR = task("color_attr", entry("cat", color="red"), entry("dog", color="blue"))
PLACE = task("position", entry("dog"), entry("cat", position=["left of", 0]))


@pytest.mark.parametrize(
    ("wanted", "objects", "why"),
    [
        (TWO, [found("dog"), found("cat")], ""),
        (TWO, [found("dog")], "cat: 1 wanted, 0 found"),
        (TWO, [found("dog", score=0.3), found("cat", score=0.31)], "dog: 1 wanted, 0 found"),
        (COUNT, [found("cat"), found("cat", 50)], ""),
        (COUNT, [found("cat"), found("cat", 50, score=0.9)], "cat: 2 wanted, 1 found"),
        (COUNT, [found("cat"), found("cat", 30), found("cat", 60)], "cat: fewer than 3 wanted, 3 found"),
        (COUNT, [found("cat"), found("cat", 30), found("cat", 60, score=0.8)], ""),
        (COLOR, [found("cat"), found("dog", 60)], ""),
        (COLOR, [found("cat", 60), found("dog", 60)], "cat: 1 red wanted, found 1 blue"),
        # Only the surest of a class is looked at.
        (COLOR, [found("cat", score=0.5), found("cat", 60), found("dog", 60)], "cat: 1 red wanted, found 1 blue"),
        (PLACE, [found("dog", 50), found("cat")], ""),
        (PLACE, [found("dog"), found("cat", 50)], "cat: left of wanted, is right of"),
        (PLACE, [found("dog"), found("cat")], "cat: left of wanted, is at the same place"),
        (PLACE, [found("cat")], "dog: 1 wanted, 0 found; cat: nothing for it to be left of"),
    ],
)
def test_verdicts(wanted: dict[str, Any], objects: list[Found], why: str) -> None:
    verdict = judge(wanted, objects, red)
    assert verdict.why == why
    assert verdict.parts == {"exact": not why}


@pytest.mark.parametrize(
    ("left", "top", "held"),
    [
        (-40, 0, {"left of"}),
        (40, 3, {"right of"}),
        (0, -40, {"above"}),
        (0, 40, {"below"}),
        (30, 30, {"right of", "below"}),  # both axes have (30 - 2) / 42.4 = 0.66 of the distance
        (2, 0, set()),  # no further than a tenth of both sizes, 0.1 * (10 + 10)
        (3.9, 0, set()),  # 1.9 of 3.9 is less than half
        (4.1, 0, {"right of"}),
    ],
)
def test_relations(left: float, top: float, held: set[str]) -> None:
    assert relations(found("a", 100 + left, 100 + top), found("b", 100, 100)) == held


def test_at_most_sixteen_of_a_class_count() -> None:
    crowd = [found("cat", 5 * place) for place in range(20)]
    assert judge(task("two_object", entry("cat", 16)), crowd, red).parts["exact"]
    assert judge(task("two_object", entry("cat", 17)), crowd, red).why == "cat: 17 wanted, 16 found"
