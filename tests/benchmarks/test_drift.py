from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffdpo.benchmarks import drift, statistics
from diffdpo.benchmarks.results import BenchRun


def rows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal([1.0, 0.0, 0.0], 1.0, size=(n, 3))


def by_pairs(embeddings: np.ndarray) -> float:
    """The definition, pair by pair."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return float(np.mean([1 - unit[i] @ unit[j] for i, j in itertools.combinations(range(len(unit)), 2)]))


@pytest.mark.parametrize("n", [2, 3, 17])
def test_diversity_is_the_mean_over_all_pairs(n: int) -> None:
    assert drift.diversity(rows(n)) == pytest.approx(by_pairs(rows(n)), abs=1e-12)
    assert drift.diversity_parts(rows(n)).mean() == pytest.approx(by_pairs(rows(n)), abs=1e-12)


def test_parts_of_diversity_are_the_jackknife() -> None:
    found, all_rows = drift.diversity_parts(rows(9)), rows(9)
    for index in range(9):
        without = by_pairs(np.delete(all_rows, index, axis=0))
        assert found[index] == pytest.approx(9 * by_pairs(all_rows) - 8 * without, abs=1e-12)


def test_one_picture_for_all_prompts_has_no_diversity() -> None:
    assert drift.diversity(np.ones((5, 4))) == pytest.approx(0.0, abs=1e-12)
    assert drift.diversity([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [0.0, -1.0]]) == pytest.approx(4 / 3)


def test_distances_by_hand() -> None:
    assert drift.distances([[1.0, 0.0]] * 3, [[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]) == pytest.approx([0, 1, 2])
    assert not drift.distances(rows(6), rows(6)).any()


def test_the_interval_of_diversity_covers() -> None:
    """Taking the mean distances of the images for independent would cover in about 67%: each is in all the others'."""
    truth = drift.diversity(rows(20_000, seed=1))
    held = 0
    for seed in range(400):
        found = statistics.mean_estimate(drift.diversity_parts(rows(40, seed=seed + 2)), resamples=1000)
        held += found.interval.low <= truth <= found.interval.high
    assert 0.91 <= held / 400 <= 0.98  # three standard errors are 3.3%


@pytest.mark.parametrize("bad", [[[0.0, 0.0], [1.0, 0.0]], [[float("nan")], [1.0]], [1.0, 2.0], [[1.0]]])
def test_what_has_no_direction_is_refused(bad: list[object]) -> None:
    with pytest.raises(ValueError, match="embedding"):
        drift.diversity(bad)


def test_runs_are_embedded_file_by_file_and_equal_files_once(before: BenchRun, after: BenchRun) -> None:
    asked: list[Path] = []

    def encode(files: Sequence[Path]) -> list[list[float]]:
        asked.extend(files)
        return [[len(path.read_bytes()), place + 1.0] for place, path in enumerate(files)]

    first, other, again = drift.embeddings([before, after, before], encode)
    assert len(asked) == len({path.read_bytes() for path in asked}) <= 2 * len(before.rows)
    assert first.tolist() == again.tolist()
    assert first[:, 0].tolist() == [len(before.image(index).read_bytes()) for index in range(len(before.rows))]
    assert other.shape == first.shape


def test_looks_that_an_old_run_has_not_are_measured(before: BenchRun) -> None:
    old = replace(before, rows=tuple(replace(row, look={"contrast": 7.0}) for row in before.rows))
    assert drift.looks(old)["jpeg_size"].tolist() == drift.looks(before)["jpeg_size"].tolist()
    assert drift.looks(before)["contrast"].tolist() == before.values("look", "contrast")
