"""The HPSv2 arithmetic against numbers worked out by hand, and this model's place in the published table."""

from __future__ import annotations

import math
from typing import Any

import pytest

from diffdpo.benchmarks.suites.hps_table import GROUP, STYLES, as_text, protocol, standing

FIRST = {"anime": 0.20, "concept-art": 0.21, "paintings": 0.22, "photo": 0.30}
"""Group g of a style has the mean FIRST + g / 1000; within a group, scores go up and down by 0.05."""


def whole() -> dict[str, Any]:
    styles, scores = [], []
    for index in range(800):
        for style in STYLES:  # in turn, as a run has them
            styles.append(style)
            scores.append(FIRST[style] + (index // GROUP) / 1000 + (0.05 if index % 2 else -0.05))
    return protocol(styles, scores)


def test_group_means_population_std_and_the_mean_over_individuals() -> None:
    found = whole()
    for style, first in FIRST.items():
        # Means of 0.0 to 0.9 above the first, x 100: their mean is 0.45 above it, their variance (10^2 - 1) / 12 / 100.
        assert found["styles"][style]["mean"] == pytest.approx(100 * first + 0.45, abs=1e-9)
        assert found["styles"][style]["std"] == pytest.approx(math.sqrt(99 / 12) / 10, abs=1e-9)
        assert found["styles"][style]["n"] == 800
    assert found["average"] == pytest.approx(23.25 + 0.45, abs=1e-9)


def test_a_part_of_the_prompts_has_no_spread_and_single_scores_count_in_the_average() -> None:
    found = protocol(["anime", "photo", "anime", "anime"], [0.1, 0.7, 0.2, 0.3])
    assert found["styles"]["anime"] == {"mean": pytest.approx(20.0), "std": None, "n": 3}
    assert found["styles"]["photo"]["mean"] == pytest.approx(70.0)
    assert found["average"] == pytest.approx(32.5)  # not 45, the mean of the styles
    assert list(found["styles"]) == ["anime", "photo"]


def test_the_place_among_the_published() -> None:
    found = whole()
    settings = {"model": "some/model", "lora": "runs/dpo/lora"}
    place = standing("hpsv2", found, {"antialias": False}, settings)
    assert place["row"] == ["model + lora", 20.45, 21.45, 22.45, 30.45, 23.7]
    assert (place["place"], place["of"], place["notes"]) == (22, 23, [])  # above GLIDE's 23.55 alone
    lines = as_text("hpsv2", {**found, **place}).split("\n")
    assert lines[0].split()[:5] == ["hpsv2,", "HPS", "v2.0", "x", "100"]
    assert lines[1].startswith("Dreamlike Photoreal 2.0")
    assert lines[22].split() == [">", "model", "+", "lora", "20.45", "21.45", "22.45", "30.45", "23.70"]
    assert lines[23].startswith("GLIDE")
    assert lines[24].split()[-4:] == ["0.2872"] * 4
    assert standing("shapes-hpsv2", found, {}, settings) == {}
    # v2.1 has another scale: there this average is between CogView2's 23.64 and Versatile Diffusion's 23.93.
    assert standing("hpsv2.1", found, {}, settings)["place"] == 15


def test_what_speaks_against_the_place_is_said() -> None:
    few = protocol(["anime", "anime"], [0.1, 0.2])
    settings = {"images": "mine", "scorer_weights": {"hpsv2": "other.pt 12ab"}}
    found = standing("hpsv2", few, {"antialias": True}, settings)
    assert found["place"] is None
    assert [note.split(",")[0] for note in found["notes"]] == [
        "2 images instead of 4 x 800",
        "scored with antialias",
        "scored by weights given as a path; only the published ones belong beside these figures",
    ]
    assert "GLIDE" not in as_text("hpsv2", {**few, **found})
