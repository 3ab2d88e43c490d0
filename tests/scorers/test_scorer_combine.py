"""combine.py: by hand on small tables, and against scipy on random ones with ties."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from scorers import ScorerError
from scorers.combine import (
    borda,
    dominance,
    kendall_tau,
    preference_agreement,
    standardized,
    weighted,
)

PROMPTS = ["a", "b", "a", "b", "a", "b", "b"]


def table(seed: int, scorers: int = 3, prompts: int = 40) -> tuple[np.ndarray, list[int]]:
    """Scores of few levels, so with many ties, of images in a random order, 1 to 6 per prompt."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(prompts), rng.integers(1, 7, prompts))
    rng.shuffle(ids)
    return rng.integers(0, 4, (scorers, len(ids))).astype(float), ids.tolist()


def groups(ids: list[int]) -> list[np.ndarray]:
    return [np.flatnonzero(np.array(ids) == one) for one in dict.fromkeys(ids)]


def test_scores_are_standardised_within_each_prompt() -> None:
    got = standardized([[1, 10, 2, 10, 3, 40, 20]], PROMPTS)
    a, spread = math.sqrt(1.5), math.sqrt(150)  # of 1 2 3 and of 10 10 40 20
    b = [(value - 20) / spread for value in (10, 10, 40, 20)]
    np.testing.assert_allclose(got, [[-a, b[0], 0, b[1], a, b[2], b[3]]], atol=1e-12)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # scipy's, of prompts without a difference
@pytest.mark.parametrize("seed", range(5))
def test_standardised_scores_are_scipys_z_scores(seed: int) -> None:
    scores, ids = table(seed)
    got = standardized(scores, ids)
    for index in groups(ids):
        wanted = np.nan_to_num(stats.zscore(scores[:, index], axis=1))
        np.testing.assert_allclose(got[:, index], wanted, atol=1e-12)


@pytest.mark.parametrize("scores", [[0.1] * 3, [5e-324, 0, 0], [1e15 + 1] * 3])
def test_a_prompt_with_equal_scores_has_zeros(scores: list[float]) -> None:
    assert standardized([scores], [0, 0, 0]).tolist() == [[0, 0, 0]]


def test_a_prompt_with_one_image_has_zero() -> None:
    assert standardized([[7.0, 3.0]], ["a", "b"]).tolist() == [[0, 0]]


def test_weights_are_a_mean_of_which_only_ratios_count() -> None:
    scores = [[1, 2], [4, 3]]
    assert weighted(scores, [0, 0], [3, 1]).tolist() == [-0.5, 0.5]
    assert weighted(scores, [0, 0], [0.3, 0.1]).tolist() == [-0.5, 0.5]
    assert weighted(scores, [0, 0], [0, 2]).tolist() == [1, -1]


def test_no_weights_are_equal_ones() -> None:
    scores, ids = table(0)
    np.testing.assert_array_equal(weighted(scores, ids), weighted(scores, ids, [2, 2, 2]))


def test_the_unit_of_a_scorer_does_not_matter() -> None:
    scores, ids = table(1)
    other = scores * [[100], [0.001], [1]] + [[5], [-3], [0]]
    np.testing.assert_allclose(weighted(other, ids), weighted(scores, ids), atol=1e-8)


def test_scorers_that_cancel_tie_exactly() -> None:
    combined = weighted([[0.1, 0.2, 0.4], [0.4, 0.2, 0.1]], [0, 0, 0])
    assert combined[0] == combined[2]


@pytest.mark.parametrize("seed", range(5))
def test_borda_is_scipys_mean_rank_on_0_to_1(seed: int) -> None:
    scores, ids = table(seed)
    got = borda(scores, ids)
    for index in groups(ids):
        if len(index) == 1:
            assert got[index].tolist() == [0.5]
            continue
        ranks = stats.rankdata(scores[:, index], axis=1, method="average")
        np.testing.assert_allclose(got[index], (ranks.mean(axis=0) - 1) / (len(index) - 1), atol=1e-9)


def test_borda_by_hand_with_ties_and_weights() -> None:
    scores = [[3, 3, 1], [1, 2, 3]]
    np.testing.assert_allclose(borda(scores, "aaa"), [0.375, 0.625, 0.5])
    np.testing.assert_allclose(borda(scores, "aaa", [1, 0]), [0.75, 0.75, 0])


def test_dominance_is_at_least_as_good_by_all_and_better_by_one() -> None:
    scores = [[2, 1, 2, 3], [2, 1, 1, 0]]
    assert np.argwhere(dominance(scores)).tolist() == [[0, 1], [0, 2], [2, 1]]


def test_dominance_of_many_prompts_at_once() -> None:
    scores = np.random.default_rng(0).integers(0, 3, (2, 5, 4))
    got = dominance(scores)
    assert got.shape == (5, 4, 4)
    for prompt, i, j in itertools.product(range(5), range(4), range(4)):
        a, b = scores[:, prompt, i].tolist(), scores[:, prompt, j].tolist()
        wanted = all(x >= y for x, y in zip(a, b, strict=True)) and a != b
        assert bool(got[prompt, i, j]) == wanted


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # as above
@pytest.mark.parametrize("seed", range(5))
def test_kendalls_tau_is_scipys_averaged_over_the_prompts(seed: int) -> None:
    scores, ids = table(seed)
    got = kendall_tau(scores, ids)
    for a, b in itertools.product(range(3), range(3)):
        each = [stats.kendalltau(scores[a, index], scores[b, index]).statistic for index in groups(ids)]
        assert got[a, b] == pytest.approx(np.nanmean(each), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_agreement_counts_pairs_and_ties_half(seed: int) -> None:
    scores, ids = table(seed)
    got = preference_agreement(scores, ids)
    for a, b in itertools.combinations(range(3), 2):
        each = []
        for index in groups(ids):
            pairs = list(itertools.combinations(index, 2))
            credit = [_credit(scores[a, i] - scores[a, j], scores[b, i] - scores[b, j]) for i, j in pairs]
            each += [np.mean(credit)] if credit else []
        assert got[a, b] == got[b, a] == pytest.approx(np.mean(each))


def _credit(one: float, other: float) -> float:
    if one == 0 or other == 0:
        return 0.5
    return float((one > 0) == (other > 0))


def test_without_ties_agreement_and_tau_say_the_same() -> None:
    scores = np.random.default_rng(3).normal(size=(2, 60))
    ids = [number // 4 for number in range(60)]
    np.testing.assert_allclose(kendall_tau(scores, ids), 2 * preference_agreement(scores, ids) - 1)


def test_where_nothing_can_be_said_it_is_no_number() -> None:
    assert math.isnan(kendall_tau([[1, 1], [1, 2]], [0, 0])[0, 1])
    assert preference_agreement([[1, 1], [1, 2]], [0, 0])[0, 1] == 0.5
    assert math.isnan(preference_agreement([[1, 1], [1, 2]], [0, 1])[0, 1])


@pytest.mark.parametrize("function", [weighted, borda, kendall_tau, preference_agreement])
def test_tensors_and_arrays_are_taken(function: Any) -> None:
    scores, ids = table(2)
    wanted = function(scores, ids)
    np.testing.assert_array_equal(function(torch.tensor(scores), torch.tensor(ids)), wanted)
    np.testing.assert_array_equal(function(scores.tolist(), np.array(ids)), wanted)
    np.testing.assert_array_equal(function(scores, [str(one) for one in ids]), wanted)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "1 weights for 2 scorers"),
        ([1.0, -1.0], "weight -1.0: must be"),
        ([1.0, math.nan], "weight nan: must be"),
        ([0.0, 0.0], "all weights are 0"),
    ],
)
def test_weights_that_mean_nothing_are_refused(weights: list[float], message: str) -> None:
    with pytest.raises(ScorerError, match=message):
        weighted([[1, 2], [3, 4]], [0, 0], weights)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([[1, 2, 3]], r"must be \[scorers, images\] and \[images\], not \[1, 3\] and 2"),
        ([1, 2], r"not \[2\] and 2"),
        ([[1, 2], [3, math.inf]], "scorer 1, image 1: the score is inf"),
    ],
)
def test_scores_that_do_not_fit_are_refused(scores: Any, message: str) -> None:
    with pytest.raises(ScorerError, match=message):
        weighted(scores, [0, 0])
