"""What is prepared ahead is what would be prepared when it is asked for, in whatever order it is."""

import threading

import pytest

from diffdpo.training.image.ahead import Ahead
from diffdpo.training.order import Order


class Preparing:
    """Remembers what was prepared and by which thread."""

    def __init__(self):
        self.made = []

    def __call__(self, examples):
        self.made.append((list(examples), threading.current_thread().name))
        return [index * 1000 + epoch for index, epoch in examples]

    def by_the_thread(self):
        return [examples for examples, thread in self.made if thread.startswith("prefetch")]


def run(ahead, order, steps, micro):
    """As the loop does: announce the next step, then take this one's micro-batches."""
    found = []
    for step in range(steps):
        ahead.announce(order.at(step + 1) if step + 1 < steps else [])
        places = order.at(step)
        found += [ahead.take(places[first : first + micro]) for first in range(0, len(places), micro)]
    return found


@pytest.mark.parametrize("micro", [2, 6])
def test_all_after_the_first_step_is_prepared_ahead_and_once(micro):
    order = Order(n=7, batch=6, seed=0)
    plain, preparing = Preparing(), Preparing()
    expected = run(Ahead(plain), order, 5, micro)
    assert run(Ahead(preparing, 2), order, 5, micro) == expected
    assert plain.by_the_thread() == []
    assert preparing.by_the_thread() == [examples for examples, _ in plain.made][6 // micro :]
    assert len(preparing.made) == len(plain.made)


def test_no_more_is_held_than_asked_for():
    preparing = Preparing()
    ahead = Ahead(preparing, 2)
    ahead.announce([(index, 0) for index in range(10)])
    ahead.take([(99, 0)])
    ahead._thread.shutdown()
    assert preparing.by_the_thread() == [[(0, 0)], [(1, 0)]]


def test_what_was_not_foreseen_is_prepared_all_the_same():
    ahead = Ahead(Preparing(), 3)
    ahead.announce([(0, 0), (1, 0), (2, 0)])
    assert ahead.take([(5, 1)]) == [5001]
    assert ahead.take([(1, 0)]) == [1000]  # ahead of its turn
    assert ahead.take([(0, 0)]) == [0]
    assert ahead.take([(2, 0)]) == [2000]


def test_an_error_reaches_the_one_who_asks():
    def prepare(examples):
        raise OSError("the disk is gone")

    ahead = Ahead(prepare, 1)
    ahead.announce([(0, 0)])
    with pytest.raises(OSError, match="the disk is gone"):
        ahead.take([(7, 0)])
    with pytest.raises(OSError, match="the disk is gone"):
        ahead.take([(0, 0)])
