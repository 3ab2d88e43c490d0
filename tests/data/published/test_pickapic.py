"""Pick-a-Pic as published: which rows become pairs, of which splits, and what is refused."""

from __future__ import annotations

import datetime
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from published_samples import PICKAPIC, pickapic_row, write_pickapic

from diffdpo.data.published.pickapic import open_pickapic
from diffdpo.data.published.rows import ROWS_PER_PART, Source
from diffdpo.errors import UserError


def rows(source: Source) -> list:
    return [row for part in range(len(source.sizes)) for row in source.rows(part)]


def test_a_row_keeps_what_was_published(pickapic):
    published = pickapic_row(1, label_0=0.3, label_1=0.7)
    (row,) = rows(open_pickapic(pickapic([published])))
    assert row.images == (published["jpg_0"], published["jpg_1"])
    assert (row.caption, row.labels, row.id, row.models) == ("a blue thing", (0.3, 0.7), "1001", ("sd", "sdxl"))
    assert row.margin == pytest.approx(0.4)


@pytest.mark.parametrize("split", ["train", "test_unique"])
def test_ties_and_unlabelled_rows_are_told_by_their_columns_whatever_the_file(pickapic, split):
    tie = pickapic_row(0, label_0=0.5, label_1=0.5, best_image_uid="tie")
    unlabelled = [pickapic_row(1, has_label=False), pickapic_row(2, label_0=None, label_1=None)]
    not_a_number = pickapic_row(3, label_0=math.nan, label_1=math.nan)
    source = open_pickapic(pickapic([tie, *unlabelled, not_a_number], split=split))
    assert [row.labels for row in rows(source)] == [(0.5, 0.5), None, None, None]
    assert all(row.problem is None for row in rows(source))


def test_rows_that_mean_nothing_have_a_problem(pickapic):
    wrong = [pickapic_row(0, label_0=1.0, label_1=1.0), pickapic_row(1, caption=None)]
    first, second = rows(open_pickapic(pickapic(wrong)))
    assert first.problem == "labels: label_0 1.0 and label_1 1.0 are not 1/0, 0/1 or 0.5/0.5"
    assert second.problem == "column 'caption' is empty"
    assert second.where == "data/train-00000-of-00001-b66ac786bf6fb553.parquet: row 1"


def test_a_file_without_its_optional_columns_will_do(tmp_path):
    dropped = {field.name for field in PICKAPIC} - {"caption", "jpg_0", "jpg_1", "label_0", "label_1"}
    row = {name: value for name, value in pickapic_row(0).items() if name not in dropped}
    (found,) = rows(open_pickapic(write_pickapic(tmp_path / "few.parquet", [row])))
    assert (found.id, found.models, found.labels) == (None, ("", ""), (1.0, 0.0))


def test_a_missing_column_is_named_with_its_file(pickapic):
    row = {name: value for name, value in pickapic_row(0).items() if name != "label_1"}
    with pytest.raises(UserError, match=r"train-00000-of-00001-\w+\.parquet: column 'label_1' is missing"):
        open_pickapic(pickapic([row]))


def test_a_torn_file_is_named(pickapic):
    folder = pickapic([pickapic_row(0)], [pickapic_row(1)])
    torn = sorted(folder.glob("data/*"))[1]
    torn.write_bytes(torn.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"train-00001-of-00002-\w+\.parquet: not a whole Parquet file"):
        open_pickapic(folder)


def test_train_is_taken_where_there_are_several_splits(pickapic):
    pickapic([pickapic_row(0)])
    folder = pickapic([pickapic_row(1)], split="validation_unique")
    assert open_pickapic(folder).settings["split"] == "train"
    assert [row.id for row in rows(open_pickapic(folder, "validation_unique"))] == ["1001"]
    with pytest.raises(UserError, match=r"unknown split .*'validation': did you mean 'validation_unique'"):
        open_pickapic(folder, "validation")


def test_of_splits_without_train_one_must_be_chosen(pickapic):
    pickapic([pickapic_row(0)], split="test_unique")
    folder = pickapic([pickapic_row(1)], split="validation_unique")
    with pytest.raises(UserError, match=r"holds test_unique, validation_unique; choose one with --split"):
        open_pickapic(folder)


def test_a_folder_for_each_split(tmp_path):
    for number, split in enumerate(("train", "test")):
        write_pickapic(tmp_path / split / "0000.parquet", [pickapic_row(number)])
    assert [row.id for row in rows(open_pickapic(tmp_path, "test"))] == ["1001"]


def test_a_limit_counts_rows_across_files(pickapic):
    folder = pickapic([pickapic_row(0), pickapic_row(1)], [pickapic_row(2), pickapic_row(3)])
    source = open_pickapic(folder, limit=3)
    assert list(source.sizes) == [2, 1]
    assert [row.id for row in rows(source)] == ["1000", "1001", "1002"]
    assert 0 < source.bytes < open_pickapic(folder).bytes


def test_parts_are_runs_of_row_groups(tmp_path):
    table = pa.table(
        {
            "caption": ["a"] * 2600,
            "jpg_0": [b"%d" % number for number in range(2600)],
            "jpg_1": [b"1"] * 2600,
            "label_0": [1.0] * 2600,
            "label_1": [0.0] * 2600,
        }
    )
    pq.write_table(table, tmp_path / "train.parquet", row_group_size=400)
    source = open_pickapic(tmp_path)
    assert list(source.sizes) == [1200, 1200, 200]
    assert source.sizes[0] >= ROWS_PER_PART
    found = list(source.rows(1))
    assert (found[0].where, found[0].images[0]) == ("train.parquet: row 1200", b"1200")
    assert len(found) == 1200


def test_other_content_is_other_data(pickapic):
    plain = open_pickapic(pickapic([pickapic_row(0)])).settings
    other = open_pickapic(pickapic([pickapic_row(0, created_at=datetime.datetime(2024, 1, 1))])).settings
    assert open_pickapic(pickapic([pickapic_row(0)])).settings == plain != other


@pytest.mark.parametrize(("name", "message"), [("none", "no such file or folder"), ("empty", "no Parquet file")])
def test_nothing_there(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=rf"{name}: {message}"):
        open_pickapic(tmp_path / name)
