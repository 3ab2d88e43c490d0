"""Draws depend on seed, pair and index, and on nothing else."""

import pytest
import torch

from diffdpo.objectives import draw, draw_view, spread

SHAPE = (4, 8, 8)


def test_a_batch_of_three_equals_three_batches_of_one():
    together = draw(7, ["a", "b", "c"], [0, 1, 2], SHAPE, 1000)
    apart = [draw(7, [name], [index], SHAPE, 1000) for index, name in enumerate("abc")]
    for column, parts in zip(together, zip(*apart, strict=True), strict=True):
        assert torch.equal(column, torch.cat(parts))


def test_seed_pair_and_index_each_change_the_draw():
    base = draw(7, ["a"], [0], SHAPE, 1000).noise
    for other in (draw(8, ["a"], [0], SHAPE, 1000), draw(7, ["b"], [0], SHAPE, 1000), draw(7, ["a"], [1], SHAPE, 1000)):
        assert not torch.equal(base, other.noise)


def test_timesteps_cover_the_whole_range_evenly():
    timesteps = draw(0, [str(i) for i in range(4000)], [0] * 4000, (1, 1, 1), 10).timesteps
    counts = torch.bincount(timesteps, minlength=10)
    assert counts.shape == (10,)
    assert (counts - 400).abs().max() < 100


def test_noise_is_standard_normal_and_the_posterior_noises_differ():
    draws = draw(0, [str(i) for i in range(200)], [0] * 200, SHAPE, 1000)
    assert abs(draws.noise.mean()) < 0.03
    assert abs(draws.noise.std() - 1) < 0.03
    assert not torch.equal(draws.posterior_w, draws.posterior_l)


def test_a_power_skews_the_timesteps_and_nothing_else():
    pairs = [f"p{i}" for i in range(4000)]
    plain = draw(0, pairs, [0] * 4000, (1, 1, 1), 1000)
    late = draw(0, pairs, [0] * 4000, (1, 1, 1), 1000, timestep_power=2.0)
    # Density 2t/T^2: a mean of 2/3, and a share of 1 - 0.8^2 in the last fifth. Standard error of each below 0.008.
    t = late.timesteps.double() / 1000
    assert abs(t.mean().item() - 2 / 3) < 0.02
    assert abs((t >= 0.8).double().mean().item() - 0.36) < 0.03
    assert late.timesteps.min() >= 0
    assert late.timesteps.max() <= 999
    assert torch.equal(plain.noise, late.noise)
    assert torch.equal(plain.dropped, late.dropped)
    assert (late.timesteps[plain.timesteps.argsort()].diff() >= 0).all()  # the same draws, moved


def test_a_view_is_a_function_of_seed_pair_and_epoch_and_all_come_equally_often():
    views = torch.tensor([draw_view(7, f"p{i}", epoch, 4) for i in range(1000) for epoch in range(4)])
    assert (torch.bincount(views, minlength=4) - 1000).abs().max() < 120  # standard deviation 27
    assert draw_view(7, "a", 3, 4) == draw_view(7, "a", 3, 4)
    # Independent of each other: a quarter agree.
    other_seed = torch.tensor([draw_view(8, f"p{i}", epoch, 4) for i in range(1000) for epoch in range(4)])
    other_epoch = views.reshape(1000, 4)[:, 1:] == views.reshape(1000, 4)[:, :1]
    assert abs((views == other_seed).float().mean() - 0.25) < 0.04
    assert abs(other_epoch.float().mean() - 0.25) < 0.04


def test_one_view_is_the_first():
    assert draw_view(7, "a", 3, 1) == 0


@pytest.mark.parametrize("first", [0, 7, 10_000_019])
@pytest.mark.parametrize("batch", [8, 100])
def test_levels_that_follow_each_other_lie_evenly(first, batch):
    """No gap between neighbours is longer than 2.62 / B, where independent draws leave one of about ln(B) / B."""
    levels = spread(3, range(first, first + batch)).sort().values
    gaps = torch.cat([levels.diff(), (levels[:1] + 1 - levels[-1:])])
    assert gaps.max() < 2.62 / batch
    assert gaps.min() > 0.3 / batch
    assert levels.min() >= 0
    assert levels.max() < 1


def test_levels_depend_on_seed_and_place_alone():
    assert torch.equal(spread(3, [5, 6, 7])[1:], spread(3, [6, 7]))
    assert not torch.equal(spread(3, [5]), spread(4, [5]))


def test_levels_take_the_place_of_the_timesteps_and_a_power_still_skews_them():
    levels = torch.tensor([0.0, 0.25, 0.81, 0.9999999999999999], dtype=torch.float64)
    pairs, indices = list("abcd"), [0] * 4
    plain = draw(0, pairs, indices, SHAPE, 1000)
    even = draw(0, pairs, indices, SHAPE, 1000, levels=levels)
    late = draw(0, pairs, indices, SHAPE, 1000, levels=levels, timestep_power=2.0)
    assert even.timesteps.tolist() == [0, 250, 810, 999]
    assert late.timesteps.tolist() == [0, 500, 900, 999]  # the square roots
    assert torch.equal(plain.noise, even.noise)
    assert torch.equal(plain.posterior_w, even.posterior_w)


def test_antithetic_noise_is_that_of_the_draw_before_with_the_other_sign():
    first, second, third = (draw(0, ["a"], [index], SHAPE, 1000, antithetic=True) for index in range(3))
    assert torch.equal(second.noise, -first.noise)
    assert not torch.equal(third.noise.abs(), first.noise.abs())
    plain = draw(0, ["a"], [1], SHAPE, 1000)
    assert torch.equal(second.posterior_w, plain.posterior_w)
    assert torch.equal(second.timesteps, plain.timesteps)
