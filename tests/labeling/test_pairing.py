import math

import numpy as np
import pytest

from diffdpo.errors import UserError
from diffdpo.labeling.pair import Preference, combine, make_pairs


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
