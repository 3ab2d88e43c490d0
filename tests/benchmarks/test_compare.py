from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from bench_fakes import N, shapes_run

from diffdpo.benchmarks import compare as module
from diffdpo.benchmarks.results import BenchRun, read_run
from diffdpo.benchmarks.statistics import Interval
from diffdpo.errors import UserError

compare = partial(module.compare, resamples=500)


def test_a_run_against_itself_is_exactly_zero(before: BenchRun) -> None:
    found = compare(before, read_run(before.folder))
    for measure in (*found.parts, *found.scores, *found.look):
        assert measure.contrast.difference.mean == 0
        assert measure.contrast.difference.interval == Interval(0.0, 0.0)
        assert measure.contrast.wins.rate.mean == 0.5
        assert (measure.contrast.wins.p_value, measure.p_corrected) == (1.0, 1.0)
    assert all(effect.difference.mean == 0 for effect in found.effects)
    assert found.gained == found.lost == ()
    assert found.warnings == ()


def test_numbers_are_those_of_the_rows(before: BenchRun, after: BenchRun) -> None:
    found = compare(before, after)
    exact = found.measure("exact").contrast
    a, b = before.values("parts", "exact"), after.values("parts", "exact")
    assert exact.a.mean == pytest.approx(sum(a) / N)
    assert exact.difference.mean == pytest.approx((sum(b) - sum(a)) / N)
    assert exact.wins.wins == sum(y > x for x, y in zip(a, b, strict=True))
    assert exact.wins.ties == sum(x == y for x, y in zip(a, b, strict=True))
    assert exact.difference.interval.low > 0
    bright = found.measure("bright").contrast
    assert bright.a.mean == pytest.approx(sum(before.values("scores", "bright")) / N)


def test_swapping_the_runs_mirrors_all(before: BenchRun, after: BenchRun) -> None:
    one, other = compare(before, after), compare(after, before)
    assert [move.index for move in one.gained] != []
    for measure in (*one.parts, *one.scores, *one.look):
        mirror = other.measure(measure.name)
        here, there = measure.contrast.difference, mirror.contrast.difference
        assert here.mean == -there.mean
        assert here.interval == Interval(-there.interval.high, -there.interval.low)
        assert measure.p_corrected == mirror.p_corrected


def test_moves_and_effects(before: BenchRun, after: BenchRun) -> None:
    found = compare(before, after)
    sizes = [(move.parts or 0, move.score or 0.0) for move in found.gained]
    assert sizes == sorted(sizes, reverse=True)
    first = found.gained[0]
    a, b = (run.rows[first.index].parts or {} for run in (before, after))
    assert first.parts == sum(b.values()) - sum(a.values()) > 0
    exact = {(e.kind, e.category): e for e in found.effects if e.measure == "exact"}
    assert ("number of things", "two") in exact
    assert ("number of things", "one") not in exact  # fewer than MIN_GROUP
    backgrounds = [effect for (kind, _), effect in exact.items() if kind == "background"]
    assert sum(effect.a.n for effect in backgrounds) == N


def test_the_judge_is_a_scorer_that_did_not_label(before: BenchRun, after: BenchRun) -> None:
    assert compare(before, after).judge == "bright"
    found = compare(before, after, labeled_by=["bright"])
    assert found.judge == "reddish"
    assert [measure.labeled for measure in found.scores] == [True, False]
    assert any("bright chose the training pairs" in warning for warning in found.warnings)
    assert compare(before, after, labeled_by=["bright", "reddish"]).judge is None
    with pytest.raises(UserError, match="unknown scorer 'brite': did you mean 'bright'"):
        compare(before, after, labeled_by=["brite"])


def test_runs_that_do_not_compare(before: BenchRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="24 and 10 prompts"):
        compare(before, shapes_run(tmp_path / "short", 0.3, limit=10))
    with pytest.raises(UserError, match="seed of prompt 0 differs"):
        compare(before, shapes_run(tmp_path / "seed", 0.3, seed=5))
