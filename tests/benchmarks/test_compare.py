from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_fakes import N, shapes_run

import scorers
from diffdpo.benchmarks import compare as module
from diffdpo.benchmarks.compare import Comparison, Measure
from diffdpo.benchmarks.effects import effects
from diffdpo.benchmarks.encoder import ImageEncoder
from diffdpo.benchmarks.labelers import labelers_of
from diffdpo.benchmarks.pairing import per_prompt
from diffdpo.benchmarks.results import BenchRun, read_run
from diffdpo.benchmarks.statistics import Estimate, Interval
from diffdpo.errors import UserError
from diffdpo.runs import write_json

compare = partial(module.compare, resamples=500)


@pytest.fixture(scope="module")
def encoder() -> ImageEncoder:
    return ImageEncoder(scorers.load("shapes-pickscore"))


def measures(found: Comparison) -> tuple[Measure, ...]:
    return (*found.parts, *found.scores, *found.drift)


def mirrored(one: Estimate, other: Estimate) -> bool:
    return (one.mean, one.interval.low, one.interval.high) == (-other.mean, -other.interval.high, -other.interval.low)


def with_scores(run: BenchRun, **values: Any) -> BenchRun:
    """The run with other scores: `name=[...]`, one for each image."""
    rows = [replace(row, scores={name: float(v[row.index]) for name, v in values.items()}) for row in run.rows]
    return replace(run, rows=tuple(rows))


def test_a_run_against_itself_is_exactly_zero(before: BenchRun, encoder: ImageEncoder) -> None:
    found = compare(before, read_run(before.folder), encoder=encoder)
    assert [measure.name for measure in found.drift][-2:] == ["jpeg_size", "diversity"]
    for measure in measures(found):
        assert measure.contrast.difference.mean == 0
        assert measure.contrast.difference.interval == Interval(0.0, 0.0)
        assert measure.contrast.wins.rate.mean == 0.5
        assert (measure.contrast.wins.p_value, measure.p_corrected) == (1.0, 1.0)
        assert measure.verdict == "no change"
    assert found.distance == Estimate(0.0, Interval(0.0, 0.0), N)
    assert all(effect.difference == Estimate(0.0, Interval(0.0, 0.0), effect.a.n) for effect in found.effects)
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


def test_swapping_the_runs_mirrors_every_number(before: BenchRun, after: BenchRun, encoder: ImageEncoder) -> None:
    one, other = compare(before, after, encoder=encoder), compare(after, before, encoder=encoder)
    turned = {"up": "down", "down": "up", "unclear": "unclear", "no change": "no change"}
    for measure, mirror in zip(measures(one), measures(other), strict=True):
        here, there = measure.contrast, mirror.contrast
        assert (here.a, here.b) == (there.b, there.a)
        assert mirrored(here.difference, there.difference)
        assert (here.wins.wins, here.wins.ties, here.wins.losses) == (
            there.wins.losses,
            there.wins.ties,
            there.wins.wins,
        )
        assert here.wins.rate.mean == pytest.approx(1 - there.wins.rate.mean, abs=1e-15)
        assert here.wins.rate.interval.low == pytest.approx(1 - there.wins.rate.interval.high, abs=1e-15)
        assert (here.wins.p_value, measure.p_corrected) == (there.wins.p_value, mirror.p_corrected)
        assert mirror.verdict == turned[measure.verdict]
    for effect, mirror_effect in zip(one.effects, other.effects, strict=True):
        assert (effect.a, effect.b) == (mirror_effect.b, mirror_effect.a)
        assert mirrored(effect.difference, mirror_effect.difference)
    for moves, mirror_moves in ((one.gained, other.lost), (one.lost, other.gained)):
        assert [(m.index, m.parts, m.score) for m in moves] == [
            (m.index, -(m.parts or 0), -(m.score or 0)) for m in mirror_moves
        ]
    assert one.gained
    assert one.distance == other.distance
    assert one.prompts == other.prompts


def test_moves_and_effects(before: BenchRun, after: BenchRun) -> None:
    found = compare(before, after)
    sizes = [move.size for move in found.gained]
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


def test_prompts_move_where_every_scorer_labelled(before: BenchRun) -> None:
    a, b = (with_scores(before, only=np.arange(N) * sign) for sign in (1, -1))
    rows = [replace(row, parts=None) for row in a.rows], [replace(row, parts=None) for row in b.rows]
    found = compare(replace(a, rows=tuple(rows[0])), replace(b, rows=tuple(rows[1])), labeled_by=["pickscore"])
    assert found.lost[0].index == N - 1
    labeled = compare(replace(a, rows=tuple(rows[0])), replace(b, rows=tuple(rows[1])), labeled_by=["only"])
    assert labeled.judge is None
    assert labeled.lost == found.lost


def test_a_scorer_that_wins_while_others_fall_is_told(before: BenchRun) -> None:
    rng = np.random.default_rng(0)
    noise = {name: rng.normal(size=N) for name in ("a", "b", "c")}
    rose = with_scores(before, a=noise["a"] + 2, b=noise["b"] - 2, c=noise["c"] - 2)
    one = with_scores(before, **noise)
    [warning] = compare(one, rose).warnings
    assert warning.startswith("a rose while b and c fell")
    assert "reward hacking" in warning
    assert compare(one, with_scores(before, a=noise["a"] + 2, b=noise["b"] + 2, c=noise["c"])).warnings == ()
    wrong = tuple(replace(row, parts={**(row.parts or {}), "exact": False}) for row in rose.rows)
    right = tuple(replace(row, parts={**(row.parts or {}), "exact": True}) for row in one.rows)
    [warning] = compare(replace(one, rows=right), replace(rose, rows=wrong)).warnings
    assert warning.startswith("a rose while the exact check, b and c fell")


def test_several_images_of_a_prompt_count_once(before: BenchRun, after: BenchRun, encoder: ImageEncoder) -> None:
    def fourfold(run: BenchRun) -> BenchRun:
        return replace(run, manifest={**run.manifest, "settings": {**run.settings, "images_per_prompt": 4}})

    a, b = fourfold(before), fourfold(after)
    found = compare(a, b, encoder=encoder)
    assert found.prompts == N // 4
    assert {measure.contrast.difference.n for measure in measures(found)} == {N // 4}
    single = compare(before, after)
    assert found.measure("bright").contrast.a.mean == pytest.approx(single.measure("bright").contrast.a.mean)
    assert per_prompt(a, "scores", "bright")[1] == pytest.approx(np.mean(a.values("scores", "bright")[4:8]))
    assert len(effects(a, b, ["exact"], {"seed": 0, "resamples": 100})) < len(single.effects)
    right = fourfold(replace(before, rows=tuple(replace(row, parts={"exact": True}) for row in before.rows)))
    assert compare(right, right).measure("exact").contrast.a.interval.low == pytest.approx(
        (N // 4) / (N // 4 + 1.959964**2), abs=1e-6
    )  # Wilson: nothing is certain
    with pytest.raises(UserError, match="4 and 1 images for each prompt"):
        compare(a, after)


def test_who_labelled_is_read_from_the_training_run(before: BenchRun, after: BenchRun, tmp_path: Path) -> None:
    manifest = {"command": "train", "complete": True, "settings": {}, "inputs": {}}
    (tmp_path / "dpo" / "model").mkdir(parents=True)
    write_json(tmp_path / "dpo" / "manifest.json", {**manifest, "results": {"labelers": ["bright+hpsv2", "human"]}})
    settings = {**after.settings, "model": str(tmp_path / "dpo" / "model")}
    tuned = replace(after, manifest={**after.manifest, "settings": settings})
    assert labelers_of(before, tuned) == ("bright",)
    assert labelers_of(before, after) == ()
    (tmp_path / "dpo" / "model").rmdir()
    assert labelers_of(before, tuned) == ()


def test_runs_that_do_not_compare(before: BenchRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="24 and 10 prompts"):
        compare(before, shapes_run(tmp_path / "short", 0.3, limit=10))
    with pytest.raises(UserError, match="seed of prompt 0 differs"):
        compare(before, shapes_run(tmp_path / "seed", 0.3, seed=5))
