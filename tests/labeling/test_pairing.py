import itertools
import math
from typing import Any

import numpy as np
import pytest

from diffdpo.errors import UserError
from diffdpo.labeling.pair import Preference, check_combination, combine, make_pairs, preferences
from scorers import ScorerError


def test_one_scorer_keeps_its_unit() -> None:
    assert combine([[[20.5, 19.0]]]).tolist() == [[20.5, 19.0]]


def test_several_scorers_are_standardised_within_each_prompt_and_averaged() -> None:
    # 1, 2, 3: mean 2, population deviation sqrt(2/3). 10, 40, 10: mean 20, deviation sqrt(200).
    a, b = math.sqrt(1.5), 1 / math.sqrt(2)
    wanted = [[(-a - b) / 2, (0 + 2 * b) / 2, (a - b) / 2]]
    np.testing.assert_allclose(combine([[[1, 2, 3]], [[10, 40, 10]]]), wanted, atol=1e-9)


def test_a_scorer_that_sees_no_difference_adds_nothing() -> None:
    np.testing.assert_allclose(combine([[[0.1, 0.1, 0.1]], [[1, 2, 3]]]), combine([[[1, 2, 3]]] * 2) / 2)


def test_scorers_that_cancel_give_a_tie() -> None:
    combined = combine([[[0.1, 0.2, 0.4]], [[0.4, 0.2, 0.1]]])
    assert combined[0, 0] == combined[0, 2]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_an_error(value: float) -> None:
    with pytest.raises(ValueError, match="scorer 0, prompt 1, candidate 0: the score is not finite"):
        combine([[[1, 2], [value, 2]]])


def test_best_worst_is_one_pair_per_prompt() -> None:
    assert make_pairs([[3, 1, 7, 2], [5, 4, 4.5, 4.5]]) == [
        Preference(0, 1, 2, -6.0),
        Preference(1, 0, 1, 1.0),
    ]


def test_all_is_every_two_candidates() -> None:
    assert make_pairs([[3, 1, 7]], "all") == [
        Preference(0, 0, 1, 2.0),
        Preference(0, 0, 2, -4.0),
        Preference(0, 1, 2, -6.0),
    ]


@pytest.mark.parametrize(("margin", "labels"), [(2.0, (1.0, 0.0)), (-0.1, (0.0, 1.0)), (0.0, (0.5, 0.5))])
def test_labels_follow_the_margin(margin: float, labels: tuple[float, float]) -> None:
    assert Preference(0, 0, 1, margin).labels == labels


def test_of_equals_the_first_best_meets_the_last_worst() -> None:
    assert make_pairs([[5, 1, 5, 1]]) == [Preference(0, 0, 3, 4.0)]


def test_all_equal_is_a_tie_of_two_different_candidates() -> None:
    assert make_pairs([[2, 2, 2]]) == [Preference(0, 0, 2, 0.0)]


@pytest.mark.parametrize(("min_margin", "kept"), [(0, 3), (2, 2), (2.1, 1), (9, 0)])
def test_pairs_below_the_min_margin_are_left_out(min_margin: float, kept: int) -> None:
    assert len(make_pairs([[5, 3], [1, 1], [0, 8]], min_margin=min_margin)) == kept


def test_one_candidate_makes_no_pair() -> None:
    with pytest.raises(UserError, match="at least 2 candidates"):
        make_pairs([[1.0]])


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'best-worst'"):
        make_pairs([[1, 2]], "bestworst")


def test_weights_move_the_combination() -> None:
    scores = [[[1, 2]], [[4, 3]]]
    assert combine(scores, weights=(3, 1)).tolist() == [[-0.5, 0.5]]
    assert combine(scores, weights=(1, 3)).tolist() == [[0.5, -0.5]]


def test_rank_hears_each_scorer_s_order_alone() -> None:
    # By size the first candidate is far ahead; by rank the second beats one of two, and both, the first both and none.
    scores = [[[100, 2, 1]], [[1, 3, 2]]]
    assert combine(scores, "rank").tolist() == [[0.5, 0.75, 0.25]]


def test_first_leaves_the_others_out() -> None:
    assert combine([[[20, 21]], [[9, 1]]], "first").tolist() == [[20, 21]]


def test_pareto_margins_are_those_of_equal_weights() -> None:
    scores = np.random.default_rng(0).normal(size=(2, 4, 3))
    np.testing.assert_array_equal(combine(scores, "pareto"), combine(scores))


@pytest.mark.parametrize("strategy", ["best-worst", "all"])
@pytest.mark.parametrize("seed", range(4))
def test_under_pareto_no_scorer_finds_the_loser_better(strategy: str, seed: int) -> None:
    scores = np.random.default_rng(seed).integers(0, 4, (3, 30, 4)).astype(float)
    pairs = preferences(scores, strategy, how="pareto")
    kept = {(pair.prompt, pair.first, pair.second) for pair in pairs}
    for prompt, (i, j) in itertools.product(range(30), itertools.combinations(range(4), 2)):
        signs = set(np.sign(scores[:, prompt, i] - scores[:, prompt, j])) - {0}
        assert ((prompt, i, j) in kept) <= (len(signs) == 1)
        assert ((prompt, i, j) in kept) or strategy == "best-worst" or len(signs) != 1
    for pair in pairs:
        difference = scores[:, pair.prompt, pair.first] - scores[:, pair.prompt, pair.second]
        assert (difference * np.sign(pair.margin) >= 0).all()
        assert pair.labels in ((1.0, 0.0), (0.0, 1.0))


def test_under_pareto_best_worst_is_the_widest_pair_without_disagreement() -> None:
    # 0 is best by far for the first scorer and worst for the second, so it meets nobody; 1 beats 2 and 3.
    scores = [[[9, 3, 2, 1]], [[0, 3, 2, 1]]]
    assert [(pair.first, pair.second) for pair in preferences(scores, how="pareto")] == [(1, 3)]


def test_under_pareto_a_prompt_of_disagreement_gives_no_pair() -> None:
    assert preferences([[[1, 2]], [[2, 1]]], how="pareto") == []
    assert preferences([[[1, 1]], [[2, 2]]], how="pareto") == []


def test_under_pareto_the_min_margin_counts_too() -> None:
    scores = [[[1, 2], [1, 2]], [[1, 2], [2, 2]]]
    assert [pair.prompt for pair in preferences(scores, min_margin=1.5, how="pareto")] == [0]


def test_without_a_choice_pairs_are_as_before_there_was_one() -> None:
    scores = np.random.default_rng(1).normal(size=(2, 6, 4))
    each = (scores - scores.mean(-1, keepdims=True)) / scores.std(-1, keepdims=True)
    wanted = each.mean(axis=0).round(9)
    np.testing.assert_array_equal(combine(scores), wanted)
    assert preferences(scores) == make_pairs(wanted)


@pytest.mark.parametrize(
    ("how", "weights", "scorers", "error", "message"),
    [
        ("mean", (), 2, UserError, "unknown combination 'mean'.*first, pareto, rank, weighted"),
        ("rank", (), 1, UserError, "for several scorers, and there is one"),
        ("weighted", (1.0,), 1, UserError, "for several scorers"),
        ("pareto", (1.0, 1.0), 2, UserError, "'pareto' uses none"),
        ("first", (1.0, 1.0), 2, UserError, "'first' uses none"),
        ("rank", (1.0,), 2, ScorerError, "1 weights for 2 scorers"),
        ("weighted", (0.0, 0.0), 2, ScorerError, "all weights are 0"),
    ],
)
def test_a_combination_that_cannot_be_made_is_refused(
    how: str, weights: Any, scorers: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_combination(how, weights, scorers)


@pytest.mark.parametrize(
    ("how", "weights", "scorers"), [("weighted", (), 1), ("rank", (1.0, 0.0), 2), ("pareto", (), 3)]
)
def test_a_combination_that_can_be_made_is_not(how: str, weights: Any, scorers: int) -> None:
    check_combination(how, weights, scorers)
