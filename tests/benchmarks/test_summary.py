"""Means over prompts where a prompt has several images, and by category."""

from __future__ import annotations

import pytest

from diffdpo.benchmarks.results import Row
from diffdpo.benchmarks.summary import summarize


def rows(exact: str, scores: list[float]) -> list[Row]:
    return [
        Row(
            index=place,
            prompt=f"p{place // 2}",
            seed=place,
            image="x",
            scores={"s": score},
            parts={"exact": holds == "1"},
            categories={"kind": "ab"[place // 4]},
            size=[8, 8 + place % 2],
        )
        for place, (holds, score) in enumerate(zip(exact, scores, strict=True))
    ]


def test_images_of_one_prompt_are_averaged_first() -> None:
    settings = {"suite": "none", "images_per_prompt": 2}
    found = summarize("t", rows("10110000", [1, 3, 2, 2, 5, 7, 0, 0]), {}, settings)
    assert (found["prompts"], found["images"], found["sizes"]) == (4, 8, [(8, 8), (8, 9)])
    assert found["scores"]["s"]["mean"] == pytest.approx(2.5)
    assert found["scores"]["s"]["n"] == 4
    assert found["parts"]["exact"]["mean"] == pytest.approx(3 / 8)
    assert found["categories"]["kind"]["a"]["exact"]["mean"] == pytest.approx(3 / 4)
    assert found["categories"]["kind"]["b"]["s"] == {
        "mean": 3.0,
        "low": found["categories"]["kind"]["b"]["s"]["low"],
        "high": found["categories"]["kind"]["b"]["s"]["high"],
        "n": 2,
    }


def test_a_rate_of_one_over_several_images_is_no_certainty() -> None:
    found = summarize("t", rows("11111111", [0.0] * 8), {}, {"suite": "none", "images_per_prompt": 2})
    exact = found["parts"]["exact"]
    assert (exact["mean"], exact["high"], exact["n"]) == (1.0, 1.0, 4)
    assert exact["low"] == pytest.approx(0.5101, abs=1e-4)  # Wilson's for 4 of 4: 4 / (4 + 1.95996^2)


def test_a_category_of_one_prompt_has_no_interval() -> None:
    found = summarize("t", rows("10110", [1, 3, 2, 2, 5]), {}, {"suite": "none"})
    assert found["categories"]["kind"]["b"]["s"] == {"mean": 5.0, "low": None, "high": None, "n": 1}
