"""HPDv2 as published: pairs of train.json, rankings of test.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffdpo.data.published.hpdv2 import open_hpdv2
from diffdpo.data.published.rows import ROWS_PER_PART, Row, Source
from diffdpo.errors import UserError


def entry(**changes: Any) -> dict[str, Any]:
    published = {"prompt": "a cat", "file_path": ["0.jpg", "1.jpg"], "human_preference": [0, 1], "user_hash": "0f"}
    return published | changes


def rows(source: Source) -> list[Row]:
    return [row for part in range(len(source.sizes)) for row in source.rows(part)]


def test_pairs_of_train(hpdv2):
    folder = hpdv2([entry(), entry(human_preference=[1, 0]), entry(human_preference=[0.5, 0.5])])
    found = rows(open_hpdv2(folder))
    assert [row.labels for row in found] == [(0, 1), (1, 0), (0.5, 0.5)]
    assert [row.margin for row in found] == [1, 1, 0]
    assert found[0].images == (folder / "train" / "0.jpg", folder / "train" / "1.jpg")
    assert (found[0].where, found[0].caption, found[0].id) == ("entry 1", "a cat", None)


def test_image_path_is_file_path_too(hpdv2):
    old = {"prompt": "a", "image_path": ["2.jpg", "3.jpg"], "human_preference": [1, 0], "raw_annotations": []}
    (row,) = rows(open_hpdv2(hpdv2([old])))
    assert [path.name for path in row.images] == ["2.jpg", "3.jpg"]


def test_a_ranking_gives_every_two_of_its_images_in_their_order(hpdv2):
    ranked = {"prompt": "a", "image_path": ["3.jpg", "1.jpg", "2.jpg"], "rank": [2, 1, 2]}
    found = rows(open_hpdv2(hpdv2([ranked | {"raw_annotations": [{"rank": [2, 1, 3]}]}], "test")))
    names = [tuple(path.name for path in row.images) for row in found]
    assert names == [("3.jpg", "1.jpg"), ("3.jpg", "2.jpg"), ("1.jpg", "2.jpg")]
    assert [row.labels for row in found] == [(0, 1), (0.5, 0.5), (1, 0)]
    assert [row.margin for row in found] == [1, 0, 1]
    assert found[2].where == "entry 1, images 1 and 2"


def test_an_entry_that_means_nothing_has_a_problem(hpdv2):
    first, second = rows(open_hpdv2(hpdv2([entry(human_preference=[1]), "text"])))
    assert first.problem == "2 images and 1 values of 'human_preference'; one for each is needed"
    assert second.problem == "not an object with a prompt, images and a judgement"


def test_parts_and_limit(hpdv2):
    folder = hpdv2([entry()] * (ROWS_PER_PART + 5))
    assert list(open_hpdv2(folder).sizes) == [ROWS_PER_PART, 5]
    assert list(open_hpdv2(folder, limit=3).sizes) == [3]


def test_splits(hpdv2):
    hpdv2([entry(prompt="of train")])
    folder = hpdv2([entry(prompt="of test")], "test")
    assert [rows(open_hpdv2(folder, split))[0].caption for split in (None, "test")] == ["of train", "of test"]
    assert open_hpdv2(folder / "test.json").settings["split"] == "test"
    with pytest.raises(UserError, match=r"test\.json: one file, and not of the split 'train'"):
        open_hpdv2(folder / "test.json", "train")


def test_images_may_lie_elsewhere(hpdv2, tmp_path):
    folder = hpdv2([entry()])
    (folder / "train").rename(tmp_path / "images")
    (row,) = rows(open_hpdv2(folder, images=tmp_path / "images"))
    assert row.images[0] == tmp_path / "images" / "0.jpg"


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no train\.json or test\.json in it"):
        open_hpdv2(tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        open_hpdv2(tmp_path / "none")
