from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from diffdpo.benchmarks import statistics
from diffdpo.benchmarks.statistics import Estimate, Interval

Draw = Callable[[np.random.Generator, int, float], tuple[np.ndarray, np.ndarray]]
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


def scores(rng: np.random.Generator, n: int, effect: float) -> tuple[np.ndarray, np.ndarray]:
    """As scorers give them: prompts differ far more than models do."""
    prompt = rng.normal(0, 5, size=n)
    return prompt + rng.normal(size=n), prompt + effect + rng.normal(size=n)


def rates(rng: np.random.Generator, n: int, effect: float) -> tuple[np.ndarray, np.ndarray]:
    """As an exact check gives them: half the prompts come out the same on both sides if it holds for A."""
    luck, keeps = rng.random(n), rng.random(n) < 0.5
    return luck < 0.6, np.where(keeps, luck, rng.random(n)) < 0.6 + effect


def skewed(rng: np.random.Generator, n: int, effect: float) -> tuple[np.ndarray, np.ndarray]:
    """A few prompts gain much, most a little."""
    return np.zeros(n), rng.exponential(effect, size=n)


@pytest.mark.parametrize(
    ("draw", "n", "effect"), [(scores, 20, 0.3), (scores, 60, 0.3), (rates, 60, 0.2), (skewed, 60, 0.3)]
)
def test_the_interval_covers_a_known_effect(draw: Draw, n: int, effect: float) -> None:
    """In 93 to 97% of 2,000 experiments, whose standard error is 0.5%."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(2000):
        interval = statistics.paired_difference(*draw(rng, n, effect), resamples=600).interval
        held += interval.low <= effect <= interval.high
    assert 0.93 <= held / 2000 <= 0.97


@pytest.mark.parametrize("draw", [scores, rates])
@pytest.mark.parametrize("measures", [1, 4])
def test_equal_models_win_nothing(draw: Draw, measures: int) -> None:
    """However many scorers look: any win at all in at most 5% of 2,000 experiments, and any loss too."""
    rng = np.random.default_rng(2)
    declared = {"up": 0, "down": 0, "unclear": 0, "no change": 0}
    for _ in range(2000):
        found = [draw(rng, 30, 0.0) for _ in range(measures)]
        signs = [np.sign(b.astype(float) - a) for a, b in found]
        p_values = statistics.holm([statistics.sign_test(int((s > 0).sum()), int((s < 0).sum())) for s in signs])
        for verdict in {
            statistics.verdict(statistics.paired_difference(*pair, resamples=400), p_value)
            for pair, p_value in zip(found, p_values, strict=True)
            if p_value < statistics.ALPHA  # of the others none is a finding, whatever their intervals
        }:
            declared[verdict] += 1
    assert declared["up"] + declared["down"] <= 100
    assert declared["up"] > 0  # and the test could fail


def test_a_finding_takes_both_the_interval_and_the_sign_test() -> None:
    up, wide = (Estimate(0.5, Interval(low, 1.0), 20) for low in (0.1, -0.1))
    assert statistics.verdict(up, 0.01) == statistics.verdict(up) == "up"
    assert statistics.verdict(up, 0.05) == statistics.verdict(wide, 0.01) == "unclear"
    assert statistics.verdict(Estimate(-0.5, Interval(-1.0, -0.1), 20), 0.01) == "down"
    assert statistics.verdict(Estimate(0.0, Interval(0.0, 0.0), 20), 1.0) == "no change"


def test_sign_test_agrees_with_the_binomial_test() -> None:
    for n_wins, n_losses in [(0, 1), (3, 3), (12, 30), (200, 150), (1700, 1500)]:
        expected = stats.binomtest(n_wins, n_wins + n_losses, 0.5).pvalue
        assert statistics.sign_test(n_wins, n_losses) == pytest.approx(expected, rel=1e-9)


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
