"""The benchmark of training: both ways compute the same, its FLOPs are those of real steps, and nobody goes first
always."""

import math

import pytest
from bench_train import losses, main
from speed.clock import median_ratio, take_turns
from speed.flops import count_parts
from speed.official import Official
from speed.ours import Ours
from speed.workload import Bench, Workload
from torch.utils.flop_counter import FlopCounterMode


def small(**changes):
    return Workload(**{"size": 16, "pairs": 2, "stored": 4, "beta": 500.0, **changes})


@pytest.mark.parametrize("rank", [0, 2])
def test_both_ways_lose_alike(rank):
    """Over two epochs of draws; the weights move, or every loss would be ln 2."""
    found = losses(small(lora_rank=rank, learning_rate=1e-4), 4)
    assert found["reference algorithm"][0] == pytest.approx(math.log(2), abs=1e-6)
    assert abs(found["reference algorithm"][1] - math.log(2)) > 1e-3
    assert found["largest_gap"] < 1e-4


@pytest.mark.parametrize("rank", [0, 2])
def test_flops_counted_without_numbers_are_those_of_a_step(rank):
    workload = small(lora_rank=rank)
    parts = count_parts(workload)
    with Bench(workload) as bench:
        every = ["cache", "activations", "metrics", "fused", "kernel"]
        ways = [Official(bench), Ours(bench), Ours(bench, extra=["table"], steps=1), Ours(bench, without=every)]
        counted = []
        for way in ways:
            way.open()
            counter = FlopCounterMode(display=False)
            with counter:
                way.step(0)
            counted.append(counter.get_total_flops() / workload.pairs)
            way.close()
    assert counted == [parts.official, *(parts.ours(way) for way in ways[1:])]
    assert parts.official == parts.ours(ways[3]) > parts.ours(ways[1]) > parts.ours(ways[2])


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


def test_the_command_counts_and_says_what_it_counted(tmp_path, capsys):
    main(["--count", "--size", "16", "--json", str(tmp_path / "found.json")])
    assert "TFLOP per pair: UNet, forward" in capsys.readouterr().out
    assert '"flops_per_pair"' in (tmp_path / "found.json").read_text()
