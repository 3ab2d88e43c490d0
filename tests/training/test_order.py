"""Every epoch sees every example once, and a step's batch is a function of seed and step."""

import pytest

from diffdpo.training.order import Order


def test_epochs_are_permutations_that_follow_without_a_gap():
    order = Order(n=10, batch=4, seed=3)
    seen = [place for step in range(5) for place in order.at(step)]
    for epoch in (0, 1):
        assert sorted(index for index, e in seen if e == epoch) == list(range(10))


def test_any_step_can_be_asked_for_first():
    later = Order(n=10, batch=4, seed=3)
    assert later.at(4) == [Order(n=10, batch=4, seed=3).at(s) for s in range(5)][4]


def test_seeds_differ():
    assert Order(50, 50, seed=0).at(0) != Order(50, 50, seed=1).at(0)


def test_nothing_to_train_on_is_an_error():
    with pytest.raises(ValueError, match="nothing to train on"):
        Order(0, 4, 0)
