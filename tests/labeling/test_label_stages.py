import io
import itertools
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from diffdpo import runs
from diffdpo.data.prompts import Prompt
from diffdpo.data.triplets import TripletStore, read_scores
from diffdpo.errors import UserError
from diffdpo.labeling.generate import image_seed
from diffdpo.labeling.stages import Labeling, label

HOW = Labeling(candidates=3, seed=5, shard_size=2)


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def grey(prompt: Prompt, candidate: int, seed: int = HOW.seed) -> int:
    """What FlatImages paints."""
    return (image_seed(seed, prompt.id, candidate) + len(prompt.text)) % 251


def test_every_prompt_gives_its_best_and_worst_candidate(
    tmp_path: Path, prompts: list[Prompt], flat: Any, judge: Any
) -> None:
    label(prompts, tmp_path / "out", flat(), [judge()], HOW)
    margins = TripletStore.open(tmp_path / "out").margins.tolist()
    greys = [[grey(prompt, number) for number in range(3)] for prompt in prompts]
    assert margins == [max(row) - min(row) for row in greys]


def test_the_chosen_image_has_the_higher_score(tmp_path: Path, prompts: list[Prompt], flat: Any, judge: Any) -> None:
    label(prompts, tmp_path / "out", flat(), [judge()], HOW)
    for triplet in TripletStore.open(tmp_path / "out"):
        chosen, rejected = (
            Image.open(io.BytesIO(content)).getpixel((0, 0)) for content in (triplet.chosen, triplet.rejected)
        )
        assert chosen > rejected


def test_scores_of_all_candidates_are_kept_with_what_makes_them_again(
    tmp_path: Path, prompts: list[Prompt], flat: Any, judge: Any
) -> None:
    label(prompts[:2], tmp_path / "out", flat(), [judge(), judge("half", 0.5)], HOW)
    rows = list(zip(*read_scores(tmp_path / "out").values(), strict=True))
    cat = prompts[0]
    assert len(rows) == 2 * 2 * 3
    assert rows[1] == (f"{cat.id}-1", "brightness", grey(cat, 1), "a cat", image_seed(5, cat.id, 1))
    assert rows[7] == (f"{cat.id}-1", "half", grey(cat, 1) / 2, "a cat", image_seed(5, cat.id, 1))


def test_the_summary_and_the_manifest_say_the_same(
    tmp_path: Path, prompts: list[Prompt], flat: Any, judge: Any
) -> None:
    results = label(prompts, tmp_path / "out", flat(), [judge()], HOW)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    greys = [grey(prompt, number) for prompt in prompts for number in range(3)]
    assert manifest["results"] == results
    assert results["mean_scores"] == {"brightness": pytest.approx(sum(greys) / len(greys))}
    assert (results["prompts"], results["images"], results["pairs"], results["ties"]) == (5, 15, 5, 0)


def test_equal_scores_are_kept_as_ties(tmp_path: Path, prompts: list[Prompt], flat: Any, judge: Any) -> None:
    results = label(prompts, tmp_path / "out", flat(), [judge(factor=0.0)], HOW)
    assert (results["pairs"], results["ties"], results["mean_margin"]) == (5, 5, 0.0)


def test_prompts_without_a_pair_are_counted(tmp_path: Path, prompts: list[Prompt], flat: Any, judge: Any) -> None:
    spreads = sorted(
        max(row) - min(row) for row in ([grey(prompt, number) for number in range(3)] for prompt in prompts)
    )
    how = replace(HOW, min_margin=float(spreads[2]))
    results = label(prompts, tmp_path / "out", flat(), [judge()], how)
    assert (results["pairs"], results["prompts_without_pair"]) == (3, 2)


def test_no_pair_at_all_is_an_error(tmp_path: Path, prompts: list[Prompt], flat: Any, judge: Any) -> None:
    with pytest.raises(UserError, match="no pair left, the margins of all 5 prompts"):
        label(prompts, tmp_path / "out", flat(), [judge()], replace(HOW, min_margin=1e6))


def test_a_score_that_is_no_number_stops_the_run(tmp_path: Path, prompts: list[Prompt], flat: Any) -> None:
    broken = SimpleNamespace(
        name="broken",
        scale="",
        settings={},
        score=lambda texts, images: torch.tensor([1.0, torch.nan, 2.0] * (len(images) // 3)),
    )
    with pytest.raises(UserError, match="scorer 'broken' gave nan for an image of 'a cat'"):
        label(prompts, tmp_path / "out", flat(), [broken], HOW)


@pytest.mark.parametrize("apart", [False, True])
def test_batches_do_not_cross_shards(tmp_path: Path, prompts: list[Prompt], flat: Any, judge: Any, apart: bool) -> None:
    source = flat()
    source.batch_size, source.apart = 4, apart
    label(prompts, tmp_path / "out", source, [judge()], HOW)
    assert source.batches == [4, 2, 4, 2, 3]


def test_all_candidates_can_be_kept(tmp_path: Path, prompts: list[Prompt], flat: Any, judge: Any) -> None:
    label(prompts, tmp_path / "out", flat(), [judge()], replace(HOW, keep_images=True))
    names = {path.stem for path in (tmp_path / "out" / "images").iterdir()}
    assert names == set(read_scores(tmp_path / "out")["image_id"])


@pytest.mark.parametrize("shard_size", [1, 2, 5])
def test_drawing_ahead_changes_no_byte(
    tmp_path: Path, prompts: list[Prompt], flat: Any, judge: Any, shard_size: int
) -> None:
    how = replace(HOW, shard_size=shard_size, keep_images=True)
    for name, apart in (("one", False), ("two", True)):
        source = flat()
        source.apart = apart
        label(prompts, tmp_path / name, source, [judge()], how)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_the_next_shard_is_drawn_while_one_is_scored(
    tmp_path: Path, prompts: list[Prompt], flat: Any, judge: Any
) -> None:
    source = flat()
    source.apart = True
    drawn: list[int] = []

    def wait_for_the_next_shard(texts: Any, images: Any) -> Any:
        wanted = min(15, sum(drawn) + 2 * len(images))
        drawn.append(len(images))
        end = time.monotonic() + 60
        while sum(source.batches) < wanted and time.monotonic() < end:
            time.sleep(0.001)
        assert sum(source.batches) == wanted
        return judge().score(texts, images)

    patient = SimpleNamespace(name="patient", scale="", settings={}, score=wait_for_the_next_shard)
    label(prompts, tmp_path / "out", source, [patient], HOW)


def test_a_model_that_fails_stops_the_run_after_the_shards_that_were_drawn(
    tmp_path: Path, prompts: list[Prompt], flat: Any, judge: Any
) -> None:
    class Failing(flat):
        apart = True

        def __call__(self, texts: Any, seeds: Any) -> Any:
            if len(self.batches) == 3:
                raise UserError("the model is gone")
            return super().__call__(texts, seeds)

    with pytest.raises(UserError, match="the model is gone"):
        label(prompts, tmp_path / "out", Failing(), [judge()], HOW)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.parquet")) == [
        "part-00000.parquet",
        "scores-00000.parquet",
    ]
    label(prompts, tmp_path / "out", flat(), [judge()], HOW)
    label(prompts, tmp_path / "whole", flat(), [judge()], HOW)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("shard_size", [1, 5])
def test_shards_do_not_change_the_pairs(
    tmp_path: Path, prompts: list[Prompt], flat: Any, judge: Any, shard_size: int
) -> None:
    label(prompts, tmp_path / "a", flat(), [judge()], HOW)
    label(prompts, tmp_path / "b", flat(), [judge()], replace(HOW, shard_size=shard_size))
    assert list(TripletStore.open(tmp_path / "a")) == list(TripletStore.open(tmp_path / "b"))


def test_a_complete_folder_is_left_alone(tmp_path: Path, prompts: list[Prompt], flat: Any, judge: Any) -> None:
    first = label(prompts, tmp_path / "out", flat(), [judge()], HOW)
    source = flat()
    assert label(prompts, tmp_path / "out", source, [judge()], HOW) == first
    assert source.batches == []


@pytest.mark.parametrize(("keep_images", "apart"), [(False, False), (True, False), (False, True)])
def test_stopped_before_any_write_it_goes_on_to_the_same_bytes(
    tmp_path: Path,
    prompts: list[Prompt],
    flat: Any,
    judge: Any,
    keep_images: bool,
    apart: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flat, "apart", apart)
    how = replace(HOW, keep_images=keep_images)
    label(prompts, tmp_path / "whole", flat(), [judge()], how)
    wanted = contents(tmp_path / "whole")
    for writes in itertools.count():
        out = tmp_path / f"stopped-{writes}"
        if not _label_until(writes, prompts, out, flat(), [judge()], how):
            break
        label(prompts, out, flat(), [judge()], how)
        assert contents(out) == wanted
    assert writes == 8 + 15 * keep_images


def _label_until(writes: int, prompts: list[Prompt], out: Path, source: Any, judges: list[Any], how: Labeling) -> bool:
    """Whether the run was stopped: after so many whole files, with the next one half written."""
    done = 0

    def replace_some(old: str, new: str) -> None:
        nonlocal done
        if done == writes:
            raise Killed
        done += 1
        Path(old).replace(new)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "os", SimpleNamespace(replace=replace_some, fsync=os.fsync))
        try:
            label(prompts, out, source, judges, how)
        except Killed:
            return True
    return False


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"how": replace(HOW, seed=6)}, "seed: there 5, now 6"),
        ({"how": replace(HOW, candidates=4)}, "candidates: there 3, now 4"),
        ({"how": replace(HOW, pairs="all")}, 'pairs: there "best-worst", now "all"'),
        ({"steps": 9}, "steps: there 2, now 9"),
        ({"factor": 2.0}, r"scorers\.brightness\.factor: there 1\.0, now 2\.0"),
        ({"prompts": 4}, "prompts.n: there 5, now 4"),
    ],
    ids=["seed", "candidates", "pairs", "model", "scorer", "prompts"],
)
def test_other_settings_are_refused_by_name(
    tmp_path: Path, prompts: list[Prompt], flat: Any, judge: Any, change: dict[str, Any], key: str
) -> None:
    label(prompts, tmp_path / "out", flat(), [judge()], HOW)
    source = flat(steps=change.get("steps", 2))
    other = judge(factor=change.get("factor", 1.0))
    with pytest.raises(UserError, match=key):
        label(prompts[: change.get("prompts", 5)], tmp_path / "out", source, [other], change.get("how", HOW))


@pytest.fixture
def judges(judge: Any) -> list[Any]:
    """Two that disagree: the second finds dark images better."""
    return [judge(), judge("darkness", -2.0)]


def chosen_greys(folder: Path) -> list[tuple[int, int]]:
    """(winner's, loser's) grey of every pair."""
    return [tuple(_grey(image) for image in (pair.chosen, pair.rejected)) for pair in TripletStore.open(folder)]


def _grey(content: bytes) -> int:
    value: int = Image.open(io.BytesIO(content)).getpixel((0, 0))[0]
    return value


def test_weights_decide_between_scorers_that_disagree(
    tmp_path: Path, prompts: list[Prompt], flat: Any, judges: list[Any]
) -> None:
    for name, weights in (("bright", (2.0, 1.0)), ("dark", (1.0, 2.0))):
        label(prompts, tmp_path / name, flat(), judges, replace(HOW, weights=weights))
    bright, dark = chosen_greys(tmp_path / "bright"), chosen_greys(tmp_path / "dark")
    assert all(winner > loser for winner, loser in bright)
    assert dark == [(loser, winner) for winner, loser in bright]


def test_equal_weights_of_opposites_tie(tmp_path: Path, prompts: list[Prompt], flat: Any, judges: list[Any]) -> None:
    assert label(prompts, tmp_path / "out", flat(), judges, HOW)["ties"] == 5


def test_the_first_scorer_alone_may_decide_and_all_are_kept(
    tmp_path: Path, prompts: list[Prompt], flat: Any, judges: list[Any]
) -> None:
    label(prompts, tmp_path / "alone", flat(), judges[:1], HOW)
    results = label(prompts, tmp_path / "out", flat(), judges, replace(HOW, combine="first"))
    assert (tmp_path / "out" / "part-00000.parquet").read_bytes() == (
        tmp_path / "alone" / "part-00000.parquet"
    ).read_bytes()
    assert set(results["mean_scores"]) == {"brightness", "darkness"}


def test_scorers_that_contradict_each_other_leave_no_pareto_pair(
    tmp_path: Path, prompts: list[Prompt], flat: Any, judges: list[Any]
) -> None:
    with pytest.raises(UserError, match="no pair left, in all 5 prompts the scorers disagree"):
        label(prompts, tmp_path / "out", flat(), judges, replace(HOW, combine="pareto"))


def test_scorers_that_agree_leave_every_pareto_pair(
    tmp_path: Path, prompts: list[Prompt], flat: Any, judge: Any
) -> None:
    judges = [judge(), judge("half", 0.5)]
    label(prompts, tmp_path / "default", flat(), judges, replace(HOW, pairs="all"))
    label(prompts, tmp_path / "pareto", flat(), judges, replace(HOW, pairs="all", combine="pareto"))
    assert list(TripletStore.open(tmp_path / "pareto")) == list(TripletStore.open(tmp_path / "default"))


@pytest.mark.parametrize(("factor", "tau", "share"), [(-2.0, -1, 0), (0.5, 1, 1), (0.0, None, 0.5)])
def test_the_summary_says_how_far_several_scorers_agree(
    tmp_path: Path, prompts: list[Prompt], flat: Any, judge: Any, factor: float, tau: float | None, share: float
) -> None:
    results = label(prompts, tmp_path / "out", flat(), [judge(), judge("other", factor)], HOW)
    assert results["agreement"] == [
        {
            "scorers": ["brightness", "other"],
            "kendall_tau_b": None if tau is None else pytest.approx(tau),
            "pair_agreement": share,
        }
    ]


def test_one_scorer_has_nobody_to_agree_with(tmp_path: Path, prompts: list[Prompt], flat: Any, judge: Any) -> None:
    assert "agreement" not in label(prompts, tmp_path / "out", flat(), [judge()], HOW)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"combine": "rank"}, 'combine: there null, now "rank"'),
        ({"weights": (1.0, 2.0)}, r"weights: there null, now \[1.0, 2.0\]"),
    ],
)
def test_another_combination_is_refused_by_name(
    tmp_path: Path, prompts: list[Prompt], flat: Any, judges: list[Any], change: dict[str, Any], key: str
) -> None:
    label(prompts, tmp_path / "out", flat(), judges, HOW)
    with pytest.raises(UserError, match=key):
        label(prompts, tmp_path / "out", flat(), judges, replace(HOW, **change))


def test_a_combination_is_recorded_and_gone_on_with(
    tmp_path: Path, prompts: list[Prompt], flat: Any, judges: list[Any]
) -> None:
    how = replace(HOW, combine="rank", weights=(2.0, 1.0))
    whole = label(prompts, tmp_path / "whole", flat(), judges, how)
    assert _label_until(4, prompts, tmp_path / "stopped", flat(), judges, how)
    assert label(prompts, tmp_path / "stopped", flat(), judges, how) == whole
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    settings = json.loads((tmp_path / "whole" / "manifest.json").read_text())["settings"]
    assert (settings["combine"], settings["weights"]) == ("rank", [2.0, 1.0])


def test_the_default_combination_leaves_the_settings_as_they_were(
    tmp_path: Path, prompts: list[Prompt], flat: Any, judges: list[Any]
) -> None:
    label(prompts, tmp_path / "out", flat(), judges, HOW)
    settings = json.loads((tmp_path / "out" / "manifest.json").read_text())["settings"]
    assert not {"combine", "weights"} & settings.keys()


def test_two_processes_cannot_write_to_one_folder(tmp_path: Path, prompts: list[Prompt], flat: Any, judge: Any) -> None:
    with (
        runs.claimed(tmp_path / "out", "label", {}, products=()),
        pytest.raises(UserError, match="another diffdpo is working there"),
    ):
        label(prompts, tmp_path / "out", flat(), [judge()], HOW)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": 1}, "candidates: pairs need at least 2"),
        ({"shard_size": 0}, "shard size: at least 1"),
        ({"min_margin": -1.0}, "min margin: at least 0"),
        ({"pairs": "best"}, "unknown way to pair 'best'"),
        ({"combine": "best"}, "unknown combination 'best'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Labeling(**options)


def test_the_seed_of_an_image_is_pinned() -> None:
    assert image_seed(0, "a1", 2) == 5483419011201590175 < 2**63


@pytest.mark.parametrize("name", ["part-00001.parquet", "scores-00002.parquet"])
def test_a_finished_folder_that_lost_a_file_gets_it_again(
    tmp_path: Path, prompts: list[Prompt], flat: Any, judge: Any, name: str
) -> None:
    results = label(prompts, tmp_path / "out", flat(), [judge()], HOW)
    before = contents(tmp_path / "out")
    (tmp_path / "out" / name).unlink()
    source = flat()
    assert label(prompts, tmp_path / "out", source, [judge()], HOW) == results
    assert contents(tmp_path / "out") == before
    assert len(source.batches) < 5


def test_a_failure_in_the_first_shard_claims_nothing(
    tmp_path: Path, prompts: list[Prompt], flat: Any, judge: Any
) -> None:
    def refuse(texts: Any, images: Any) -> Any:
        raise UserError("foreign captions")

    strict = SimpleNamespace(name="strict", scale="", settings={}, score=refuse)
    with pytest.raises(UserError, match="foreign captions"):
        label(prompts, tmp_path / "out", flat(), [strict], HOW)
    assert not (tmp_path / "out").exists()
    label(prompts, tmp_path / "out", flat(), [judge()], HOW)


def test_the_file_of_the_prompts_may_change_its_name(
    tmp_path: Path, prompts: list[Prompt], flat: Any, judge: Any
) -> None:
    for name in ("prompts.txt", "renamed.txt"):
        (tmp_path / name).write_text(name)
        label(prompts, tmp_path / "out", flat(), [judge()], HOW, inputs=[tmp_path / name])
    assert list(runs.read_manifest(tmp_path / "out")["inputs"]) == ["prompts.txt"]
