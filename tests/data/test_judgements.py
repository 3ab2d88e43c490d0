"""The sources a judge learns from: Pick-a-Pic, HPDv2, rankings, our own store; and what is wrong in them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from diffdpo.data.judgements import open_judgements
from diffdpo.errors import UserError


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), number, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def number(content: bytes) -> int:
    return Image.open(io.BytesIO(content)).getpixel((0, 0))[0]


def pickapic(folder: Path, rows: list[dict]) -> Path:
    """A Parquet file as Pick-a-Pic publishes them: no pair ids, `num_example_per_prompt`, rows without a label."""
    folder.mkdir()
    defaults = {"has_label": True, "jpg_0": picture(10), "jpg_1": picture(20), "num_example_per_prompt": 1}
    pq.write_table(pa.Table.from_pylist([defaults | row for row in rows]), folder / "train-00000-of-00001.parquet")
    return folder


def write_json(folder: Path, entries: list[dict], name: str = "train.json") -> Path:
    """`train.json` and `train/` with the images 1.png to 9.png."""
    images = folder / Path(name).stem
    images.mkdir(parents=True)
    for index in range(1, 10):
        (images / f"{index}.png").write_bytes(picture(index))
    lines = "\n".join(map(json.dumps, entries)) if name.endswith("l") else json.dumps(entries)
    (folder / name).write_text(lines)
    return folder / name


def entry(**changes) -> dict:
    return {"prompt": "a cat", "file_path": ["1.png", "2.png"], "human_preference": [1, 0]} | changes


def test_pickapic_labels_weights_and_images(tmp_path):
    rows = [
        {"caption": "a", "label_0": 1.0, "label_1": 0.0, "num_example_per_prompt": 4},
        {"caption": "a", "label_0": 0.0, "label_1": 1.0, "num_example_per_prompt": 4},
        {"caption": "b", "label_0": 0.5, "label_1": 0.5, "num_example_per_prompt": 2},
        {"caption": "c", "label_0": 0.3, "label_1": 0.7},
        {"caption": "d", "label_0": 0.5, "label_1": 0.5, "has_label": False},
    ]
    judgements = open_judgements(pickapic(tmp_path / "p", rows))
    assert [row.caption for row in judgements.rows] == ["a", "a", "b", "c"]
    assert [row.weight for row in judgements.rows] == [0.25, 0.25, 0.5, 1.0]
    assert [row.tie for row in judgements.rows] == [False, False, True, False]
    assert [row.label for row in judgements.rows] == [1.0, 1.0, 0.5, 0.7]
    # What the first image's label speaks of must come first.
    assert [number(judgements.images(index)[0]) for index in (0, 1, 3)] == [10, 20, 20]


def test_without_counts_the_judgements_of_a_prompt_are_counted(make_store):
    judgements = open_judgements(make_store(4))  # every two rows share a caption
    assert [row.weight for row in judgements.rows] == [0.5] * 4
    assert all(row.ranks == (1, 2) and row.label == 1.0 for row in judgements.rows)


def test_hpdv2_pairs(tmp_path):
    entries = [entry(), entry(human_preference=[0, 1]), entry(prompt="b", human_preference=[0.5, 0.5])]
    write_json(tmp_path, [*entries, entry(prompt="c", human_preference=[0.2, 0.8])])
    judgements = open_judgements(tmp_path)  # the folder of train.json
    assert [row.label for row in judgements.rows] == [1.0, 0.0, 0.5, 0.2]
    assert [row.ranks for row in judgements.rows] == [(1, 2), (2, 1), (1, 1), (2, 1)]
    assert [row.weight for row in judgements.rows] == [0.5, 0.5, 1.0, 1.0]
    assert [number(content) for content in judgements.images(0)] == [1, 2]


def test_rankings_of_more_than_two(tmp_path):
    files = ["3.png", "1.png", "2.png"]
    entries = [
        {"prompt": "a", "image_path": files, "rank": [2, 1, 2.5]},
        {"prompt": "b", "generations": files, "ranking": [1, 1, 2]},
        {"prompt": "c", "file_path": files, "human_preference": [0, 1, 0]},
        {"prompt": "d", "images": files[:2], "rank": [3, 1]},
    ]
    judgements = open_judgements(write_json(tmp_path, entries, "test.jsonl"))
    assert [row.ranks for row in judgements.rows] == [(2, 1, 3), (1, 1, 3), (2, 1, 2), (2, 1)]
    assert [row.label for row in judgements.rows] == [None, None, None, 0.0]
    assert [number(content) for content in judgements.images(0)] == [3, 1, 2]


def test_images_may_lie_elsewhere(tmp_path):
    path = write_json(tmp_path / "here", [entry()])
    (tmp_path / "here" / "train").rename(tmp_path / "images")
    assert number(open_judgements(path, tmp_path / "images").images(0)[0]) == 1
    with pytest.raises(UserError, match=r"entry 1: the image .*1\.png is not there"):
        open_judgements(path)


def test_the_fingerprint_sees_judgements_and_images(tmp_path):
    path = write_json(tmp_path, [entry()])
    first = open_judgements(path).fingerprint()
    assert open_judgements(path).fingerprint() == first
    (tmp_path / "train" / "2.png").write_bytes(picture(99))
    changed = open_judgements(path).fingerprint()
    path.write_text(json.dumps([entry(human_preference=[0, 1])]))
    assert len({first, changed, open_judgements(path).fingerprint()}) == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"human_preference": [1.2, -0.2]}, "entry 2: 'human_preference': [1.2, -0.2] must lie between 0 and 1"),
        ({"human_preference": [0.9, 0.3]}, "entry 2: 'human_preference': [0.9, 0.3] must add up to 1"),
        ({"human_preference": [1, 0, 0]}, "entry 2: 2 images and 3 values of 'human_preference'"),
        ({"human_preference": ["1", "0"]}, "entry 2: 'human_preference' must hold numbers"),
        ({"human_preference": None}, "entry 2: 'human_preference' must be a list, not None"),
        ({"file_path": ["1.png"], "human_preference": [1]}, "entry 2: a judgement is of two or more image paths"),
        ({"file_path": ["1.png", "77.png"]}, "77.png is not there"),
        ({"prompt": ""}, "entry 2: 'prompt' must be a text that is not empty"),
        ({"num_example_per_prompt": 0}, "entry 2: 'num_example_per_prompt' must be at least 1, not 0"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, wrong, message):
    path = write_json(tmp_path, [entry(), entry(**wrong)])
    with pytest.raises(UserError) as caught:
        open_judgements(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["file_path", "human_preference"])
def test_a_missing_key_is_named(tmp_path, key):
    broken = {name: value for name, value in entry().items() if name != key}
    with pytest.raises(UserError, match=rf"entry 2: no .*'{key}'.*; there: prompt"):
        open_judgements(write_json(tmp_path, [entry(), broken]))


def test_a_missing_column_is_named(tmp_path):
    folder = tmp_path / "p"
    folder.mkdir()
    columns = {"caption": ["a"], "jpg_0": [b"x"], "jpg_1": [b"y"], "label_0": [1.0]}
    pq.write_table(pa.table(columns), folder / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: column 'label_1' is missing"):
        open_judgements(folder)


def test_a_label_out_of_range_is_named(tmp_path):
    folder = pickapic(tmp_path / "p", [{"caption": "a", "label_0": 1.5, "label_1": -0.5}])
    with pytest.raises(UserError, match=r"row 0: label_0 1\.5 and label_1 -0\.5"):
        open_judgements(folder)


@pytest.mark.parametrize("kind", ["nothing", "file", "folder", "list"])
def test_what_is_no_source_is_refused(tmp_path, kind):
    path = tmp_path / {"file": "a.txt", "list": "a.json"}.get(kind, "a")
    if kind == "folder":
        path.mkdir()
    elif kind != "nothing":
        path.write_text("[]")
    with pytest.raises(UserError) as caught:
        open_judgements(path)
    assert str(path) in str(caught.value)


def test_parquet_takes_no_image_folder(make_store, tmp_path):
    with pytest.raises(UserError, match=r"leave data\.images out"):
        open_judgements(make_store(2), tmp_path)
