from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from diffdpo.benchmarks import statistics
from diffdpo.benchmarks.statistics import Interval

A = [0.1, 0.4, 0.35, 0.8, 0.5, 0.2]
B = [0.3, 0.4, 0.30, 0.9, 0.9, 0.1]


def test_means_and_counts_by_hand() -> None:
    found = statistics.contrast(A, B)
    assert found.a.mean == pytest.approx(2.35 / 6)
    assert found.b.mean == pytest.approx(2.9 / 6)
    assert found.difference.mean == pytest.approx(0.55 / 6)
    assert (found.wins.wins, found.wins.ties, found.wins.losses) == (3, 1, 2)
    assert found.wins.rate.mean == pytest.approx(3.5 / 6)
    assert found.wins.p_value == 1.0  # 3 of 5: at least as far from even as every outcome


def test_sign_test_by_hand() -> None:
    assert statistics.sign_test(5, 0) == pytest.approx(2 / 32)
    assert statistics.sign_test(1, 7) == pytest.approx(2 * (1 + 8) / 256)
    assert statistics.sign_test(0, 0) == 1.0


def test_holm_by_hand() -> None:
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert statistics.holm([]) == []


def test_interval_of_two_values_is_their_range() -> None:
    assert statistics.mean_estimate([0.0, 2.0]).interval == Interval(0.0, 2.0)


def test_large_sample_agrees_with_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, size=800)
    found = statistics.mean_estimate(values).interval
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    assert found.low == pytest.approx(values.mean() - half, abs=0.015)
    assert found.high == pytest.approx(values.mean() + half, abs=0.015)


def test_equal_inputs_give_exactly_zero() -> None:
    found = statistics.contrast(A, A)
    assert found.difference.mean == 0
    assert found.difference.interval == Interval(0.0, 0.0)
    assert found.wins.rate.mean == 0.5
    assert found.wins.rate.interval == Interval(0.5, 0.5)
    assert found.wins.p_value == 1.0


@pytest.mark.parametrize("n", [2, 7, 320, 2500])
def test_swapping_mirrors(n: int) -> None:
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=n), rng.normal(0.1, size=n)
    one, other = (statistics.contrast(*pair, resamples=2000) for pair in ((a, b), (b, a)))
    assert one.a == other.b
    assert one.b == other.a
    assert one.difference.mean == -other.difference.mean
    assert one.difference.interval == Interval(-other.difference.interval.high, -other.difference.interval.low)
    assert (one.wins.wins, one.wins.losses) == (other.wins.losses, other.wins.wins)
    assert one.wins.p_value == other.wins.p_value
    assert one.wins.rate.mean == pytest.approx(1 - other.wins.rate.mean, abs=1e-15)
    assert one.wins.rate.interval.low == pytest.approx(1 - other.wins.rate.interval.high, abs=1e-15)


def test_same_seed_same_interval_and_another_seed_nearly() -> None:
    values = np.random.default_rng(0).random(50)
    first, again, other = (statistics.mean_estimate(values, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert first.interval.low == pytest.approx(other.interval.low, abs=0.01)


def test_a_rate_of_one_is_not_certain() -> None:
    found = statistics.mean_estimate([True] * 20)
    assert found.interval.high == 1.0
    # Wilson: n / (n + z^2)
    assert found.interval.low == pytest.approx(20 / (20 + 1.959964**2), abs=1e-6)
    assert statistics.wins([0.0] * 20, [1.0] * 20).rate.interval == found.interval
    assert statistics.wins([1.0] * 20, [0.0] * 20).rate.interval.low == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("n", "skewed"), [(12, False), (40, True)])
def test_coverage(n: int, skewed: bool) -> None:
    """The 95% interval holds the true mean in about 95% of samples. Three standard errors of 300 are 3.8%."""
    rng = np.random.default_rng(n)
    draw = rng.exponential if skewed else rng.normal
    held = 0
    for _ in range(300):
        interval = statistics.mean_estimate(draw(size=n), resamples=1000).interval
        held += interval.low <= (1.0 if skewed else 0.0) <= interval.high
    assert 0.91 <= held / 300 <= 0.985


def test_paired_interval_is_narrower_than_unpaired() -> None:
    rng = np.random.default_rng(0)
    prompt = rng.normal(0, 5, size=200)
    a, b = prompt + rng.normal(size=200), prompt + 0.5 + rng.normal(size=200)
    found = statistics.contrast(a, b)
    assert found.difference.interval.excludes_zero
    assert not statistics.paired_difference(a, rng.permutation(b)).interval.excludes_zero
    assert found.wins.p_value == pytest.approx(stats.binomtest(found.wins.wins, 200).pvalue)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1.0, float("nan")], [1.0, 2.0], "a: value 1 is nan"),
        ([1.0, 2.0], [float("inf"), 2.0], "b: value 0 is inf"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], "of the same prompts"),
        ([1.0], [1.0], "at least 2 prompts"),
        ([[1.0, 2.0]], [[1.0, 2.0]], "at least 2 prompts"),
    ],
)
def test_what_has_no_mean_is_refused(a: list[float], b: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        statistics.paired_difference(a, b)
