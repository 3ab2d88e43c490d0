"""Weights by margin, worked out by hand."""

import math

import pytest
import torch

from diffdpo.losses import margin_weights


def weights(*margins, unknown=(), cap=4.0):
    mask = torch.tensor([index in unknown for index in range(len(margins))])
    return margin_weights(torch.tensor(margins), mask, cap=cap)


def test_weights_are_margins_over_their_mean():
    assert weights(1.0, 2.0, 3.0).tolist() == [0.5, 1.0, 1.5]


def test_the_unit_of_the_margins_does_not_matter():
    torch.testing.assert_close(weights(0.01, 0.02, 0.06), weights(10.0, 20.0, 60.0))


def test_ties_and_unknown_margins_weigh_one_and_move_no_other():
    found = weights(1.0, 0.0, 3.0, math.nan, unknown=(1,))
    assert found.tolist() == [0.5, 1.0, 1.5, 1.0]
    assert found.dtype == torch.float32


def test_a_margin_against_the_label_weighs_nothing():
    assert weights(-5.0, 1.0, 2.0).tolist() == [0.0, 1.0, 2.0]


def test_a_margin_counts_for_at_most_the_cap_times_the_mean():
    # Mean 2.5, cap 5: margins 1 1 1 5 with mean 2.
    assert weights(1.0, 1.0, 1.0, 7.0, cap=2.0).tolist() == [0.5, 0.5, 0.5, 2.5]


def test_the_mean_is_one():
    margins = torch.distributions.Pareto(0.1, 1.1).sample((1000,))
    assert weights(*margins.tolist()).mean().item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("margins", [(0.0, -1.0), (math.nan, math.nan)])
def test_nothing_to_weigh_by_is_an_error(margins):
    with pytest.raises(ValueError, match="no margin is above 0"):
        weights(*margins)


def test_a_cap_below_the_mean_is_an_error():
    with pytest.raises(ValueError, match="cap must be at least 1"):
        weights(1.0, cap=0.5)
