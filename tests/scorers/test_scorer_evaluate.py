"""scorers.evaluate: each set's rule against hand-counted cases, the readers against files of the published shape."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from evaluation_samples import Choice, Grey, Ranking, grey, write_hpdv2, write_imagereward, write_pickapic
from scipy import stats

import scorers
from scorers import ScorerError
from scorers.evaluation.interval import per_prompt, ratio_interval
from scorers.evaluation.protocols import (
    PUBLISHED_THRESHOLDS,
    Credit,
    best_threshold,
    ordered_pairs_credit,
    pair_points,
    probability_gap,
    ranking_credit,
)
from scorers.evaluation.readers import open_set

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"


@pytest.mark.parametrize(
    ("scores", "ranks", "points"),
    [
        ([4, 3, 2, 1], [1, 2, 3, 4], 1),
        ([1, 2, 3, 4], [1, 2, 3, 4], 0),
        ([4, 2, 3, 1], [1, 2, 3, 4], 5 / 6),  # the middle two swapped: 1 of 6 inverted
        ([1, 3, 2, 4], [1, 2, 3, 4], 1 / 6),  # reversed but for the middle two
        ([2, 1], [1, 1], 1),  # people tie: nothing can be inverted
        ([5, 5], [1, 2], 0.5),  # equal scores: half an inversion
        ([0.1, 0.3, 0.2], [2.5, 1.25, 2.0], 1),  # mean ranks
        ([3, 2, 1], [1, 3, 1], 2 / 3),  # of (0,1) right, (0,2) tied by people, (1,2) inverted
    ],
)
def test_the_share_of_a_ranking_that_is_not_inverted(scores: list[float], ranks: list[float], points: float) -> None:
    credit = ranking_credit(scores, ranks)
    assert credit.points == pytest.approx(points)
    assert credit.weight == 1


def test_half_an_inversion_is_the_mean_over_both_ways_to_break_a_tie() -> None:
    ranks = [1, 2, 3, 4]
    broken = [ranking_credit(scores, ranks).points for scores in ([4, 3, 2, 1], [4, 2, 3, 1])]
    assert ranking_credit([4, 2.5, 2.5, 1], ranks).points == pytest.approx(np.mean(broken))


def test_inversions_are_the_swaps_that_sorting_by_neighbours_takes() -> None:
    for order in itertools.permutations(range(5)):
        row, swaps = list(order), 0
        for _ in row:
            for index in range(4):
                if row[index] > row[index + 1]:
                    row[index : index + 2] = row[index + 1], row[index]
                    swaps += 1
        scores = [-place for place in order]
        assert ranking_credit(scores, [1, 2, 3, 4, 5]).points == pytest.approx(1 - swaps / 10)


@pytest.mark.parametrize(
    ("scores", "ranks", "right", "pairs"),
    [
        ([3, 2, 1], [1, 2, 3], 3, 3),
        ([3, 1, 2], [1, 2, 3], 2, 3),
        ([3, 2, 1], [1, 1, 2], 2, 2),  # the tied pair is not asked about
        ([2, 2, 1], [1, 2, 3], 2, 3),  # equal predictions are wrong
        ([1, 2], [4, 4], 0, 0),
    ],
)
def test_pairs_in_peoples_order_out_of_those_they_do_not_tie(
    scores: list[float], ranks: list[float], right: int, pairs: int
) -> None:
    assert ordered_pairs_credit(scores, ranks) == Credit(right, pairs)


def test_the_gap_is_that_of_the_softmax() -> None:
    scores = np.array([[20.0, 21.5], [0.2, 0.3], [7.0, 7.0], [-300.0, 300.0]])
    probabilities = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probability_gap(scores), probabilities[:, 1] - probabilities[:, 0], atol=1e-12)


def test_points_of_all_nine_answers() -> None:
    gap = [0.5, 0.5, 0.5, -0.5, -0.5, -0.5, 0.1, 0.1, -0.1]
    verdict = [1, 0, -1, 1, 0, -1, 1, 0, -1]
    assert pair_points(gap, verdict, 0.1).tolist() == [1, 0.5, 0, 0, 0.5, 1, 0.5, 1, 0.5]


def test_equal_scores_are_a_tie_at_threshold_0() -> None:
    assert pair_points([0.0, 0.0, 1e-9], [0, 1, 1], 0.0).tolist() == [1, 0.5, 1]


@pytest.mark.parametrize("thresholds", [PUBLISHED_THRESHOLDS, None])
def test_the_best_threshold_is_the_smallest_of_those_that_do_best(thresholds: Any) -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        gap = rng.normal(0, 0.4, 40).clip(-1, 1).round(1 if rng.random() < 0.5 else 6)
        verdict = rng.integers(-1, 2, 40)
        tried = thresholds or sorted({0.0, *np.abs(gap).tolist()})
        points = [pair_points(gap, verdict, t).sum() for t in tried]
        assert best_threshold(gap, verdict, thresholds) == tried[points.index(max(points))]


def test_a_prompt_is_resampled_with_all_that_belongs_to_it() -> None:
    credits = [Credit(1, 1), Credit(2, 4), Credit(0, 0), Credit(3, 5)]
    points, weight = per_prompt(["a", "b", "nothing to say", "a"], credits)
    assert (points.tolist(), weight.tolist()) == ([4, 2], [6, 4])


def test_the_interval_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    weight = rng.integers(3, 9, 60).astype(float)
    points = rng.binomial(weight.astype(int), 0.65).astype(float)

    def ratio(a: Any, b: Any, axis: int = -1) -> Any:
        return a.sum(axis=axis) / b.sum(axis=axis)

    expected = stats.bootstrap((points, weight), ratio, paired=True, n_resamples=20_000, method="percentile",
                               random_state=np.random.default_rng(3)).confidence_interval  # fmt: skip
    low, high = ratio_interval(points, weight, 20_000, 0)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.004)
    assert high - low > 0.05


@pytest.mark.parametrize("right", [0, 1])
def test_a_perfect_score_is_not_certain(right: int) -> None:
    wilson = stats.binomtest(20 * right, 20).proportion_ci(0.95, method="wilson")
    found = ratio_interval(np.full(20, 3.0 * right), np.full(20, 3.0), 100, 0)
    assert found == pytest.approx((wilson.low, wilson.high))


def test_one_prompt_has_no_interval() -> None:
    with pytest.raises(ScorerError, match="at least 2"):
        ratio_interval(np.array([1.0]), np.array([2.0]), 100, 0)


RANKINGS: list[Ranking] = [
    ("brighter is better", [200, 150, 100], [1, 2, 3]),  # all right
    ("darker is better", [200, 150, 100], [3, 2, 1]),  # all wrong
    ("people tie two", [200, 150, 100], [1, 3, 1]),  # (0,1) right, (0,2) tied, (1,2) wrong
    ("four", [200, 180, 160, 140], [1, 2, 4, 3]),  # 1 of 6 wrong
]


def test_hpdv2_averages_over_prompts(tmp_path: Path) -> None:
    found = scorers.evaluate([Grey()], "hpdv2", write_hpdv2(tmp_path / "HPD", RANKINGS))
    [result] = found.accuracies
    assert result.accuracy == pytest.approx((1 + 0 + 2 / 3 + 5 / 6) / 4)
    assert (result.prompts, result.comparisons, result.threshold) == (4, 4, None)
    assert 0 <= result.interval[0] < result.accuracy < result.interval[1] <= 1
    assert (result.scorer, result.settings, found.skipped) == ("grey", {"scorer": "grey", "unit": 100}, [])


def test_imagereward_counts_pairs_not_prompts(tmp_path: Path) -> None:
    folder = write_imagereward(tmp_path / "IR", [*RANKINGS, ("all the same", [10, 20], [2, 2])])
    [result] = scorers.evaluate([Grey()], "imagereward", folder).accuracies
    assert result.accuracy == pytest.approx((3 + 0 + 1 + 5) / (3 + 3 + 2 + 6))
    assert (result.prompts, result.comparisons) == (4, 14)


def test_several_scorers_are_measured_each_on_its_own(tmp_path: Path) -> None:
    folder = write_imagereward(tmp_path / "IR", RANKINGS)
    bright, dark = scorers.evaluate([Grey(), Grey(-1, "dark")], "imagereward", folder).accuracies
    assert (bright.scorer, dark.scorer) == ("grey", "dark")
    assert (bright.accuracy, dark.accuracy) == pytest.approx((9 / 14, 5 / 14))


def test_equal_scores_lose_imagereward_and_half_of_hpdv2(tmp_path: Path) -> None:
    flat: list[Ranking] = [("a", [70, 70], [1, 2]), ("b", [90, 90], [2, 1])]
    pair = [Grey()], ("imagereward", write_imagereward(tmp_path / "IR", flat))
    assert scorers.evaluate(pair[0], *pair[1]).accuracies[0].accuracy == 0
    assert scorers.evaluate(pair[0], "hpdv2", write_hpdv2(tmp_path / "HPD", flat)).accuracies[0].accuracy == 0.5


VALIDATION: list[Choice] = [
    # grey / 100 is the score; the gap of d is tanh(d / 2): 0.02 -> 0.01, 0.24 -> 0.119, 1.0 -> 0.46, 2.0 -> 0.76
    ("v0", 100, 102, 0.5),
    ("v1", 100, 124, 0.5),
    ("v2", 124, 100, 0.5),
    ("v3", 50, 150, 0.0),
    ("v4", 150, 50, 1.0),
    ("v5", 200, 20, 1.0),
]
TEST: list[Choice] = [
    ("t0", 100, 110, 0.5),  # gap 0.05: tie and tie, 1
    ("t1", 100, 110, 0.0),  # tie against image 1, 1/2
    ("t2", 30, 130, 0.0),  # image 1, right, 1
    ("t3", 30, 130, 0.5),  # image 1 against a tie, 1/2
    ("t4", 30, 130, 1.0),  # wrong, 0
    ("nobody was asked", 5, 250, None),
]


@pytest.fixture
def pickapic(tmp_path: Path) -> Path:
    folder = tmp_path / "pickapic_v1"
    write_pickapic(folder / "data" / "validation_unique-00000-of-00001-33ead111.parquet", VALIDATION)
    write_pickapic(folder / "data" / "test_unique-00000-of-00002-aa.parquet", TEST[:2])
    write_pickapic(folder / "data" / "test_unique-00001-of-00002-bb.parquet", TEST[2:])
    # The other splits lie beside them and must not be read.
    (folder / "data" / "test-00000-of-00001.parquet").write_bytes(b"not whole")
    (folder / "data" / "validation-00000-of-00001.parquet").write_bytes(b"not whole")
    return folder


def test_pickapic_tunes_on_validation_and_counts_on_test(pickapic: Path) -> None:
    [result] = scorers.evaluate([Grey()], "pickapic", pickapic).accuracies
    # At 0.2 the first three are ties and the last three are decided: all six right. At 0.1 it is only 5.
    assert (result.threshold, result.tuning_accuracy) == (0.2, 1)
    assert result.accuracy == pytest.approx((1 + 0.5 + 1 + 0.5 + 0) / 5)
    assert (result.prompts, result.comparisons, result.note) == (5, 5, None)


def test_a_finer_threshold_suits_any_scale_and_the_published_ones_say_so(pickapic: Path) -> None:
    """With scores in thousandths all gaps are below 0.001: the order is what it was, the published steps are lost."""
    coarse, fine = (
        scorers.evaluate([Grey(100_000)], "pickapic", pickapic, thresholds=thresholds).accuracies[0]
        for thresholds in ("published", "all")  # type: ignore[attr-defined]
    )
    assert coarse.threshold == 0
    assert coarse.note is not None
    assert "thresholds='all'" in coarse.note
    assert fine.threshold == pytest.approx(np.tanh(0.24 / 1000 / 2), rel=1e-6)
    assert (fine.tuning_accuracy, fine.note) == (1, None)
    assert fine.accuracy == pytest.approx(3 / 5)


def test_splits_in_folders_of_their_own(tmp_path: Path) -> None:
    write_pickapic(tmp_path / "validation_unique" / "part-00000.parquet", VALIDATION)
    write_pickapic(tmp_path / "test_unique" / "part-00000.parquet", TEST)
    assert scorers.evaluate([Grey()], "pickapic", tmp_path).accuracies[0].threshold == 0.2


def test_pairs_of_a_triplet_store(make_store: Callable[..., Path]) -> None:
    """The store that `diffdpo.data` writes; random pictures, so the oracle opens them itself."""
    store = make_store(12, ties=(3, 7))
    rows = pq.read_table(store / "part-00000.parquet").to_pylist()
    points = []
    for row in rows:
        means = [float(np.asarray(scorers_open(row[name])).mean()) for name in ("jpg_0", "jpg_1")]
        points.append(0.5 if row["label_0"] == 0.5 else float((means[0] > means[1]) == (row["label_0"] == 1)))
    [result] = scorers.evaluate([Grey()], "pairs", store).accuracies
    assert result.accuracy == pytest.approx(np.mean(points))
    assert 0 < result.accuracy < 1
    # Every second pair has the caption of the one before: 6 prompts are resampled, not 12.
    assert (result.prompts, result.comparisons, result.threshold) == (6, 12, 0)


def scorers_open(content: bytes) -> Any:
    import io

    from PIL import Image

    return Image.open(io.BytesIO(content))


def test_the_published_imagereward_file_has_the_published_number_of_pairs() -> None:
    file = SHARED / "imagereward" / "test.json"
    if not file.is_file():
        pytest.skip(f"{file} is not here")
    [split] = open_set("imagereward", file, file.parent, must_exist=False)
    ranks = [example.ranks for example in split.examples()]
    assert len(ranks) == 466
    # 6,399 comparisons: the ImageReward paper, section on the test set.
    assert sum(ordered_pairs_credit(range(len(row)), row).weight for row in ranks) == 6399
    assert ordered_pairs_credit([-rank for rank in ranks[0]], ranks[0]) == Credit(6, 6)


def test_images_are_read_a_batch_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scorers.stream.IMAGES_AT_A_TIME", 4)
    scorer = Grey()
    found = scorers.evaluate([scorer], "hpdv2", write_hpdv2(tmp_path / "HPD", RANKINGS))
    assert scorer.calls == [4, 4, 4, 1]  # 13 images: batches end within rankings
    assert found.accuracies[0].accuracy == pytest.approx(2.5 / 4)


@pytest.mark.parametrize("what", ["cut", "empty", "gone", "refused"])
def test_a_failing_image_is_named_or_left_out_with_its_prompt(tmp_path: Path, what: str) -> None:
    folder = write_hpdv2(tmp_path / "HPD", RANKINGS)
    path = folder / "test" / "001_2.jpg"
    scorer = Grey(refuses="darker is better" if what == "refused" else "")
    if what == "cut":
        path.write_bytes(path.read_bytes()[:300])
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "gone":
        path.unlink()
    named = "001_0.jpg" if what == "refused" else "001_2.jpg"
    with pytest.raises(ScorerError) as caught:
        scorers.evaluate([scorer], "hpdv2", folder)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    found = scorers.evaluate([scorer], "hpdv2", folder, on_error="skip")
    assert found.accuracies[0].accuracy == pytest.approx((1 + 2 / 3 + 5 / 6) / 3)
    assert found.accuracies[0].prompts == 3
    assert len(found.skipped) == (3 if what == "refused" else 1)
    assert named in found.skipped[0].item
    reason = {"cut": "cannot be opened", "empty": "0 bytes", "gone": "no such file", "refused": "about this prompt"}
    assert reason[what] in found.skipped[0].reason


def test_a_damaged_cell_of_a_parquet_file_is_named(pickapic: Path) -> None:
    file = pickapic / "data" / "test_unique-00001-of-00002-bb.parquet"
    table = pq.read_table(file)
    cells = table["jpg_1"].to_pylist()
    cells[1] = cells[1][:200]
    column = table.schema.get_field_index("jpg_1")
    pq.write_table(table.set_column(column, "jpg_1", [cells]), file)
    with pytest.raises(ScorerError, match=r"test_unique-00001.*parquet: row 1: jpg_1: cannot be opened as an image"):
        scorers.evaluate([Grey()], "pickapic", pickapic)
    found = scorers.evaluate([Grey()], "pickapic", pickapic, on_error="skip")
    assert found.accuracies[0].accuracy == pytest.approx((1 + 0.5 + 1 + 0) / 4)


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    folder = write_hpdv2(tmp_path / "HPD", RANKINGS)
    for path in (folder / "test").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ScorerError, match=r"nothing could be scored; .*000_0\.jpg: empty"):
        scorers.evaluate([Grey()], "hpdv2", folder, on_error="skip")


def edit(folder: Path, **changes: Any) -> Path:
    """The same set with keys of its entry 1 changed, or taken away where the value is None."""
    entries = json.loads((folder / "test.json").read_text())
    for key, value in changes.items():
        if value is None:
            del entries[1][key]
        else:
            entries[1][key] = value
    (folder / "test.json").write_text(json.dumps(entries))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": None}, r"test\.json: entry 1: must be an object with the keys prompt, image_path, rank"),
        ({"rank": [1, 2]}, "entry 1: 'rank' must be a list with a number for each of 3 images"),
        ({"rank": [1, "2", 3]}, "entry 1: 'rank' must"),
        ({"image_path": ["000_0.jpg"]}, "entry 1: 'image_path' must be a list of at least 2 paths"),
        ({"prompt": 3}, "entry 1: 'prompt' is no text"),
        ({"image_path": ["000_0.jpg", "nowhere.jpg", "000_1.jpg"]}, r"the image .*nowhere\.jpg is not there"),
    ],
)
def test_a_json_file_that_is_not_as_published(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ScorerError, match=message):
        open_set("hpdv2", edit(write_hpdv2(tmp_path / "HPD", RANKINGS), **changes))


@pytest.mark.parametrize(
    ("content", "message"),
    [("[", "not valid JSON"), ("[]", "must be a JSON list"), ('{"a": 1}', "must be a JSON list")],
)
def test_a_json_file_that_is_none(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "test.json").write_text(content)
    with pytest.raises(ScorerError, match=message):
        open_set("hpdv2", tmp_path)


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("caption", None, "row 1: column 'caption' is no text"),
        ("label_0", None, r"row 1: label_0 None and label_1 0\.5 are not 1/0, 0/1 or 0\.5/0\.5"),
        ("label_0", 0.7, r"row 1: label_0 0\.7 and label_1 0\.5"),
    ],
)
def test_a_parquet_row_that_is_not_as_published(pickapic: Path, column: str, cell: Any, message: str) -> None:
    file = next(pickapic.glob("data/validation_unique*"))
    table = pq.read_table(file)
    cells = table[column].to_pylist()
    cells[1] = cell
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, [cells]), file)
    with pytest.raises(ScorerError, match=message):
        open_set("pickapic", pickapic)


def test_parquet_files_that_are_not_there_not_whole_or_of_something_else(pickapic: Path, tmp_path: Path) -> None:
    file = next(pickapic.glob("data/validation_unique*"))
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(ScorerError, match=r"validation_unique.*: not a whole Parquet file"):
        open_set("pickapic", pickapic)
    pq.write_table(pq.read_table(write_pickapic(tmp_path / "x.parquet", TEST)).drop_columns("jpg_1"), file)
    with pytest.raises(ScorerError, match=r"validation_unique.*: column 'jpg_1' is missing"):
        open_set("pickapic", pickapic)
    file.unlink()
    with pytest.raises(ScorerError, match=r"no validation_unique\*\.parquet in it"):
        open_set("pickapic", pickapic)


def test_wrong_use_is_one_line(tmp_path: Path) -> None:
    for arguments, options, message in (
        (([Grey()], "hpdv3", tmp_path), {}, "no test set 'hpdv3'; the names: hpdv2, imagereward, pickapic, pairs"),
        (([Grey()], "hpdv2", tmp_path / "no"), {}, "no such file or folder"),
        (([Grey()], "hpdv2", tmp_path), {}, r"no test\.json in it"),
        (([], "hpdv2", tmp_path), {}, "at least one scorer"),
        (([Grey()], "hpdv2", tmp_path), {"on_error": "ignore"}, "on_error"),
        (([Grey()], "pairs", tmp_path), {"images": tmp_path}, "in the Parquet files"),
    ):
        with pytest.raises(ScorerError, match=message):
            scorers.evaluate(*arguments, **options)  # type: ignore[arg-type]


def test_images_elsewhere_and_the_json_file_itself(tmp_path: Path) -> None:
    folder = write_hpdv2(tmp_path / "HPD", RANKINGS)
    (folder / "test").rename(tmp_path / "elsewhere")
    found = scorers.evaluate([Grey()], "hpdv2", folder / "test.json", images=tmp_path / "elsewhere")
    assert found.accuracies[0].accuracy == pytest.approx(2.5 / 4)


def test_importing_scorers_stays_light() -> None:
    code = "import sys, scorers; scorers.evaluate; print({'torch', 'numpy', 'PIL', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_pixels_of_a_flat_jpeg_are_exact() -> None:
    """What the other tests rely on."""
    for value in (5, 20, 50, 100, 102, 124, 250):
        assert float(np.asarray(scorers_open(grey(value, "JPEG"))).mean()) == value
