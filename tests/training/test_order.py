"""Every epoch sees every example once, and a step's batch is a function of seed and step."""

from itertools import pairwise

import pytest

from diffdpo.training.order import BucketOrder, Order
from diffdpo.training.shares import dealt


def test_epochs_are_permutations_that_follow_without_a_gap():
    order = Order(n=10, batch=4, seed=3)
    seen = [place for step in range(5) for place in order.at(step)]
    for epoch in (0, 1):
        assert sorted(index for index, e in seen if e == epoch) == list(range(10))


def test_any_step_can_be_asked_for_first():
    later = Order(n=10, batch=4, seed=3)
    assert later.at(4) == [Order(n=10, batch=4, seed=3).at(s) for s in range(5)][4]


def test_a_place_is_where_the_example_is_dealt():
    order = Order(n=10, batch=4, seed=3)
    assert [order.place(*example) for example in order.between(0, 45)] == list(range(45))


def test_seeds_differ():
    assert Order(50, 50, seed=0).at(0) != Order(50, 50, seed=1).at(0)


def test_nothing_to_train_on_is_an_error():
    with pytest.raises(ValueError, match="nothing to train on"):
        Order(0, 4, 0)


BUCKETS = ["a"] * 7 + ["b"] * 12 + ["c"] * 2
"""Of 21 examples."""


def bucketed(batch=8, block=4, seed=3):
    return BucketOrder(BUCKETS, batch, block, seed)


def test_a_block_is_of_one_bucket():
    order = bucketed()
    for step in range(40):
        places = order.at(step)
        for block in (places[:4], places[4:]):
            assert len({BUCKETS[index] for index, _ in block}) == 1


def test_every_example_of_a_bucket_comes_once_in_each_of_its_epochs():
    """84 places are 4 times 21 examples, but buckets wait until they fill a block."""
    dealt = bucketed().between(0, 84 * 5)
    for index, bucket in enumerate(BUCKETS):
        epochs = [epoch for i, epoch in dealt if i == index]
        assert sorted(epochs) == list(range(len(epochs))), bucket
        assert abs(len(epochs) - 20) <= 4 // BUCKETS.count(bucket) + 1


def test_buckets_are_mixed_from_step_to_step():
    dealt = [BUCKETS[index] for index, _ in bucketed().between(0, 84 * 5)][::4]
    assert dealt != sorted(dealt)
    changes = sum(a != b for a, b in pairwise(dealt))
    assert changes > len(dealt) / 4


@pytest.mark.parametrize("number", [0, 1, 7, 53])
def test_a_step_of_buckets_needs_no_past(number):
    past = bucketed()
    assert [past.at(step) for step in range(54)][number] == bucketed().at(number)
    assert bucketed().between(8 * number + 3, 8 * number + 9) == past.between(8 * number, 8 * number + 12)[3:9]


def test_processes_and_accumulation_share_out_the_same_order():
    """A block is what all processes take at once; steps of more blocks only put more of them together."""
    one, accumulated = bucketed(batch=4), bucketed(batch=8)
    assert one.at(0) + one.at(1) == accumulated.at(0)


def test_seeds_of_buckets_differ():
    assert bucketed(seed=0).at(0) != bucketed(seed=1).at(0)


def test_half_a_block_in_a_step_is_an_error():
    with pytest.raises(ValueError, match="not a whole number of blocks"):
        bucketed(batch=6)


def test_places_of_a_block_follow_each_other_in_the_sequence_of_its_bucket():
    order = bucketed()
    seen = {bucket: [] for bucket in BUCKETS}
    for step in range(40):
        for index, epoch in order.at(step):
            seen[BUCKETS[index]].append(order.place(index, epoch))
    for places in seen.values():
        # Blocks of a round are shuffled; within one, places go up by one.
        blocks = [places[start : start + 4] for start in range(0, len(places), 4)]
        assert all(block == list(range(block[0], block[0] + 4)) for block in blocks)
        assert len(set(places)) == len(places)


def test_a_step_is_dealt_out_whole_and_each_process_gets_its_part_of_the_long_ones():
    lengths = list(range(48, 0, -2))
    shares = [dealt(lengths, 4, rank, 3) for rank in range(3)]
    assert shares[1] == [[46, 40, 34, 28], [22, 16, 10, 4]]
    assert sorted(length for share in shares for micro in share for length in micro) == sorted(lengths)
    assert [sum(map(max, share)) for share in shares] == [48 + 24, 46 + 22, 44 + 20]
