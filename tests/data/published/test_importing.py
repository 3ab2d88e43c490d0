"""From published rows to a store: bytes, ids, what is left out, what is refused, what is made again."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from published_samples import pickapic_row, picture

from diffdpo.data.prompts import Prompt
from diffdpo.data.published.hpdv2 import open_hpdv2
from diffdpo.data.published.importing import LEFT_OUT, import_pairs
from diffdpo.data.published.pickapic import open_pickapic
from diffdpo.data.triplets import ROWS_PER_GROUP, TripletStore
from diffdpo.errors import UserError


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_images_captions_and_labels_come_through_untouched(pickapic, tmp_path):
    published = [pickapic_row(number) for number in range(4)]
    published[3] |= {"label_0": 0.5, "label_1": 0.5}
    results = import_pairs(open_pickapic(pickapic(published)), tmp_path / "store")
    table = pq.read_table(tmp_path / "store" / "part-00000.parquet").to_pylist()
    for row, original in zip(table, published, strict=True):
        for name in ("caption", "jpg_0", "jpg_1", "label_0", "label_1", "model_0", "model_1"):
            assert row[name] == original[name]
        assert row["prompt_id"] == Prompt.of(original["caption"]).id
        assert (row["seed_0"], row["labeler"]) == (None, "people")
    assert [row["pair_id"] for row in table] == ["1000", "1001", "1002", "1003"]
    assert results == {"rows": 4, "pairs": 4, "ties": 1, "unlabelled": 0, "unusable": 0, "unusable_rows": []}
    assert contents(tmp_path / "store")[LEFT_OUT] == b""


def test_the_store_trains(pickapic, tmp_path):
    published = [pickapic_row(0), pickapic_row(1, label_0=0.5, label_1=0.5), pickapic_row(3)]
    import_pairs(open_pickapic(pickapic(published)), tmp_path / "store")
    store = TripletStore.open(tmp_path / "store")
    assert (store.keep("drop"), store.keep("half")) == ([0, 2], [0, 1, 2])
    assert [triplet.chosen for triplet in store][::2] == [published[0]["jpg_0"], published[2]["jpg_1"]]
    assert store.margins.tolist() == [1, 0, 1]


def test_hpdv2_becomes_a_store(hpdv2, tmp_path):
    entries = [{"prompt": "a", "file_path": ["0.jpg", "1.jpg"], "human_preference": [0, 1]}]
    import_pairs(open_hpdv2(hpdv2(entries)), tmp_path / "store")
    (triplet,) = TripletStore.open(tmp_path / "store")
    assert (triplet.chosen, triplet.rejected) == (picture(1), picture(0))


def test_rows_stand_in_small_groups(pickapic, tmp_path):
    rows = [pickapic_row(number) for number in range(ROWS_PER_GROUP + 1)]
    import_pairs(open_pickapic(pickapic(rows)), tmp_path / "store")
    assert pq.ParquetFile(tmp_path / "store" / "part-00000.parquet").num_row_groups == 2


def test_ids_are_unique_across_parts_and_do_not_depend_on_what_was_there(pickapic, tmp_path):
    same = pickapic_row(0)
    nameless = pickapic_row(1, ranking_id=None)
    source = open_pickapic(pickapic([same, nameless], [same, nameless], [same]))
    import_pairs(source, tmp_path / "store")
    ids = TripletStore.open(tmp_path / "store").pair_ids
    assert ids[::2] == ["1000", "1000-2", "1000-3"]
    assert len(ids[1]) == 32
    assert ids[3] == f"{ids[1]}-2"
    whole = contents(tmp_path / "store")
    (tmp_path / "store" / "part-00001.parquet").unlink()
    import_pairs(source, tmp_path / "store")
    assert contents(tmp_path / "store") == whole


def torn(kind: str, **options: object) -> bytes:
    """A picture that lost its last third; its header is whole."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()[: -len(buffer.getvalue()) // 3]


BROKEN = {
    "torn jpeg": torn("JPEG"),
    "torn progressive jpeg": torn("JPEG", progressive=True),
    "torn png": torn("PNG"),
    "no image": b"<html>404</html>",
    "empty": b"",
    "null": None,
}


@pytest.mark.parametrize("broken", BROKEN)
def test_an_image_that_cannot_be_opened_stops_the_import_and_leaves_no_folder(pickapic, tmp_path, broken):
    source = open_pickapic(pickapic([pickapic_row(0), pickapic_row(1, jpg_1=BROKEN[broken])]))
    with pytest.raises(UserError, match=r"train-00000-of-00001-\w+\.parquet: row 1: image 1 .*--on-error skip"):
        import_pairs(source, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_what_is_left_out_is_counted_and_named(pickapic, tmp_path):
    rows = [
        pickapic_row(0),
        pickapic_row(1, jpg_0=b"no image"),
        pickapic_row(2, has_label=False, jpg_0=b"no image either"),
        pickapic_row(3, label_0=2.0),
    ]
    results = import_pairs(open_pickapic(pickapic(rows)), tmp_path / "store", "skip")
    file = "data/train-00000-of-00001-b66ac786bf6fb553.parquet"
    whys = [
        (f"{file}: row 1", "image 0 is no image that can be opened"),
        (f"{file}: row 2", "no label"),
        (f"{file}: row 3", "labels: label_0 2.0 and label_1 1.0 are not 1/0, 0/1 or 0.5/0.5"),
    ]
    lines = (tmp_path / "store" / LEFT_OUT).read_text().splitlines()
    assert [tuple(json.loads(line).values()) for line in lines] == whys
    assert (results["rows"], results["pairs"], results["unlabelled"], results["unusable"]) == (4, 1, 1, 2)
    assert results["unusable_rows"] == [f"{where}: {why}" for where, why in whys[::2]]


def test_an_import_that_stopped_goes_on_with_skip(pickapic, tmp_path):
    source = open_pickapic(pickapic([pickapic_row(0)], [pickapic_row(1), pickapic_row(2, jpg_0=b"")]))
    with pytest.raises(UserError):
        import_pairs(source, tmp_path / "store")
    with pytest.raises(UserError, match="importing is not finished; give the same `diffdpo import` command again"):
        TripletStore.open(tmp_path / "store")
    import_pairs(source, tmp_path / "store", "skip")
    import_pairs(source, tmp_path / "at once", "skip")
    assert contents(tmp_path / "store") == contents(tmp_path / "at once")


def test_an_image_of_hpdv2_that_is_not_there_is_named(hpdv2, tmp_path):
    entries = [{"prompt": "a", "file_path": ["0.jpg", "9.jpg"], "human_preference": [0, 1]}]
    source = open_hpdv2(hpdv2(entries))
    with pytest.raises(UserError, match=r"train\.json: entry 1: the image 9\.jpg cannot be read \(No such file"):
        import_pairs(source, tmp_path / "store")


def test_a_finished_import_is_left_alone(pickapic, tmp_path):
    source = open_pickapic(pickapic([pickapic_row(0)]))
    results = import_pairs(source, tmp_path / "store")
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "store").iterdir())]
    assert import_pairs(source, tmp_path / "store") == results
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "store").iterdir())] == times


def test_the_store_of_other_data_is_refused(pickapic, tmp_path):
    folder = pickapic([pickapic_row(0), pickapic_row(1)])
    import_pairs(open_pickapic(folder), tmp_path / "store")
    with pytest.raises(UserError, match=r"made with other settings \(limit: there null, now 1\)"):
        import_pairs(open_pickapic(folder, limit=1), tmp_path / "store")


def test_data_without_a_label_is_no_store(pickapic, tmp_path):
    source = open_pickapic(pickapic([pickapic_row(0, has_label=False)]))
    with pytest.raises(UserError, match="no pair in it: of 1 rows 1 without a label and 0 that cannot be used"):
        import_pairs(source, tmp_path / "store")
