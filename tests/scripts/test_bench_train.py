"""The benchmark of training: both ways compute the same, its FLOPs are those of real steps, and nobody goes first
always."""

import math
from types import SimpleNamespace

import pytest
from bench_train import losses, main
from speed.clock import median_ratio, take_turns
from speed.flops import Flops, count_parts
from speed.official import Official
from speed.ours import DEFAULT, Ours
from speed.workload import Bench, Workload
from torch.utils.flop_counter import FlopCounterMode

BENCH = SimpleNamespace(workload=None, model=None)
"""None is needed to count."""


def small(**changes):
    return Workload(**{"size": 16, "pairs": 2, "stored": 4, "beta": 500.0, **changes})


@pytest.mark.parametrize("rank", [0, 2])
def test_both_ways_lose_alike(rank):
    """Over two epochs of draws; the weights move, or every loss would be ln 2."""
    found = losses(small(lora_rank=rank, learning_rate=1e-4), 2)
    assert found["reference algorithm"][0] == pytest.approx(math.log(2), abs=1e-6)
    assert abs(found["reference algorithm"][1] - math.log(2)) > 1e-3
    assert found["largest_gap"] < 1e-4


def test_the_trained_model_loses_alike_at_the_usual_beta():
    found = losses(Workload(model="shapes", pairs=2, stored=2), 20)
    assert found["reference algorithm"][-1] < math.log(2) - 1e-2, "it learns"
    assert found["largest_gap"] < 1e-4


@pytest.mark.parametrize(
    "change", [{"without": [name]} for name in DEFAULT] + [{"extra": [name]} for name in ("table", "prefetch")]
)
def test_every_switch_leaves_the_losses_and_the_model_as_they_were(change):
    with Bench(small(lora_rank=2, learning_rate=1e-4)) as bench:
        first, found = bench.weights(), []
        for way in (Ours(bench), Ours(bench, **change), Ours(bench)):
            bench.restore(first)
            way.open()
            found.append([float(way.step(number)) for number in range(2)])
            way.close()
    assert found[1] == pytest.approx(found[0], abs=1e-4)
    assert found[2] == found[0]


def test_a_copy_that_would_move_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--one-copy"])
    assert "add --no-update" in capsys.readouterr().err


def test_flops_counted_without_numbers_are_those_of_a_step():
    workload = small(lora_rank=2, pairs=1)
    parts = count_parts(workload)
    with Bench(workload) as bench:
        ways = [Official(bench), Ours(bench, without=["activations"])]
        counted = []
        for way in ways:
            way.open()
            counter = FlopCounterMode(display=False)
            with counter:
                way.step(0)
            counted.append(counter.get_total_flops())
            way.close()
    assert counted == [parts.official, parts.ours(ways[1])]


def test_what_is_left_out_costs_what_it_saved():
    parts = Flops(forward=2, trained=6, remade=8, images=3, text=1)
    assert parts.official == parts.ours(Ours(BENCH, without=["cache", "activations"])) == 14
    assert parts.ours(Ours(BENCH)) == 8
    assert parts.ours(Ours(BENCH, extra=["table"])) == 6
    assert [parts.again(Ours(BENCH, without=names)) for names in ([], ["activations"])] == [0, 2]


class Fake:
    def __init__(self, name, told, fails=False):
        self.name, self.told, self.fails = name, told, fails

    def open(self):
        self.told.append(f"open {self.name}")

    def close(self):
        self.told.append(f"close {self.name}")

    def step(self, number):
        self.told.append(number)
        if self.fails:
            raise ValueError("no")


def test_ways_take_turns_and_the_first_of_a_round_is_the_last_of_the_next():
    told = []
    ways = [Fake("a", told), Fake("b", told)]
    times = take_turns(ways, "cpu", rounds=2, steps=2, warmup=1, tell=lambda line: None)
    turn = [0, 1, 2]
    assert told == [word for name in "abba" for word in (f"open {name}", *turn, f"close {name}")]
    assert [len(own.wall) for own in times] == [4, 4]


def test_a_way_that_fails_is_closed():
    told = []
    with pytest.raises(ValueError, match="no"):
        take_turns([Fake("a", told, fails=True)], "cpu", rounds=1, steps=1, warmup=0, tell=lambda line: None)
    assert told[-1] == "close a"


def test_a_ratio_is_the_median_of_those_of_each_turn():
    assert median_ratio([2, 9, 4], [1, 3, 4]) == (2, 1, 3)
