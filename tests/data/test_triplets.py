from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffdpo.data import triplets
from diffdpo.data.triplets import (
    GROUPS_KEPT,
    ROWS_PER_GROUP,
    Pair,
    Score,
    TripletStore,
    read_scores,
    write_pairs,
    write_scores,
)
from diffdpo.errors import UserError
from diffdpo.runs import claim


def pair(number: int, label_0: float = 1.0) -> Pair:
    return Pair(
        caption=f"caption {number % 3}",
        jpg_0=b"first %d" % number,
        jpg_1=b"second %d" % number,
        label_0=label_0,
        label_1=1 - label_0,
        pair_id=f"pair-{number}",
        prompt_id=f"prompt-{number % 3}",
        model_0="m",
        model_1="m",
        seed_0=2**62 + number,
        seed_1=number,
        labeler="test",
        margin=abs(2 * label_0 - 1),
    )


def test_the_columns_are_those_of_pick_a_pic_and_the_extra_ones(tmp_path: Path) -> None:
    schema = pq.read_schema(write_pairs(tmp_path, 0, [pair(0)]))
    assert {name: str(schema.field(name).type) for name in schema.names} == {
        "caption": "string",
        "jpg_0": "binary",
        "jpg_1": "binary",
        "label_0": "double",
        "label_1": "double",
        "pair_id": "string",
        "prompt_id": "string",
        "model_0": "string",
        "model_1": "string",
        "seed_0": "int64",
        "seed_1": "int64",
        "labeler": "string",
        "margin": "double",
    }


def test_rows_stand_in_groups_for_random_access(tmp_path: Path) -> None:
    path = write_pairs(tmp_path, 0, [pair(number) for number in range(2 * ROWS_PER_GROUP + 1)])
    assert pq.ParquetFile(path).num_row_groups == 3


def test_the_same_pairs_give_the_same_bytes(tmp_path: Path) -> None:
    contents = [write_pairs(tmp_path, 0, [pair(0), pair(1)]).read_bytes() for _ in range(2)]
    assert contents[0] == contents[1]


def test_the_winner_follows_the_labels(tmp_path: Path) -> None:
    write_pairs(tmp_path, 0, [pair(0, 1.0), pair(1, 0.0)])
    first, second = TripletStore.open(tmp_path)
    assert (first.chosen, first.rejected) == (b"first 0", b"second 0")
    assert (second.chosen, second.rejected) == (b"second 1", b"first 1")


def test_a_tie_stays_a_tie(tmp_path: Path) -> None:
    write_pairs(tmp_path, 0, [pair(0, 0.5), pair(1)])
    store = TripletStore.open(tmp_path)
    assert [triplet.tie for triplet in store] == [True, False]
    assert store[0].margin == 0


@pytest.mark.parametrize(("policy", "kept"), [("drop", [1]), ("half", [0, 1])])
def test_the_ties_policy(tmp_path: Path, policy: str, kept: list[int]) -> None:
    write_pairs(tmp_path, 0, [pair(0, 0.5), pair(1)])
    assert TripletStore.open(tmp_path).keep(policy) == kept  # type: ignore[arg-type]


def test_an_unknown_ties_policy_is_refused(tmp_path: Path) -> None:
    write_pairs(tmp_path, 0, [pair(0)])
    with pytest.raises(UserError, match="did you mean 'drop'"):
        TripletStore.open(tmp_path).keep("dropp")  # type: ignore[arg-type]


def test_random_access_reaches_every_row_of_every_shard(tmp_path: Path) -> None:
    numbers = list(range(3 * ROWS_PER_GROUP + 7))
    write_pairs(tmp_path, 0, [pair(number) for number in numbers[:60]])
    write_pairs(tmp_path, 1, [])
    write_pairs(tmp_path, 2, [pair(number) for number in numbers[60:]])
    store = TripletStore.open(tmp_path)
    order = np.random.default_rng(0).permutation(numbers)
    assert [store[int(index)].chosen for index in order] == [b"first %d" % number for number in order]
    assert store[-1].pair_id == f"pair-{numbers[-1]}"


def test_an_index_beyond_the_end_ends_a_loop(tmp_path: Path) -> None:
    write_pairs(tmp_path, 0, [pair(0)])
    with pytest.raises(IndexError):
        TripletStore.open(tmp_path)[1]


def test_few_row_groups_stay_in_memory(tmp_path: Path) -> None:
    write_pairs(tmp_path, 0, [pair(number) for number in range(8 * ROWS_PER_GROUP)])
    store = TripletStore.open(tmp_path)
    list(store)
    assert len(store._recent) == GROUPS_KEPT


def test_large_row_groups_are_not_kept_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pairs(tmp_path, 0, [pair(number) for number in range(3 * ROWS_PER_GROUP)])
    monkeypatch.setattr(triplets, "BYTES_KEPT", 1)
    store = TripletStore.open(tmp_path)
    assert len(list(store)) == 3 * ROWS_PER_GROUP
    assert len(store._recent) == 1


def test_linked_parts_of_two_stores_are_one(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        labelled(tmp_path / name)
        (tmp_path / "both").mkdir(exist_ok=True)
        for shard in range(2):
            link = tmp_path / "both" / f"part-{2 * number + shard:05d}.parquet"
            link.symlink_to(tmp_path / name / f"part-{shard:05d}.parquet")
    assert len(TripletStore.open(tmp_path / "both")) == 4


def test_published_files_without_the_extra_columns_are_a_store(tmp_path: Path) -> None:
    columns = {
        "caption": ["a", "b", "c"],
        "jpg_0": [b"1", b"2", b"3"],
        "jpg_1": [b"4", b"5", b"6"],
        "label_0": [0.0, 0.5, None],
        "label_1": [1.0, 0.5, None],
        "has_label": [True, True, False],
    }
    pq.write_table(pa.table(columns), tmp_path / "train-00000-of-00001.parquet")
    store = TripletStore.open(tmp_path)
    assert [triplet.chosen for triplet in store] == [b"4", b"2"]
    assert store.pair_ids == ["train-00000-of-00001-0", "train-00000-of-00001-1"]
    assert np.isnan(store.margins).all()


def test_labels_may_be_whole_numbers(tmp_path: Path) -> None:
    columns = {"caption": ["a"], "jpg_0": [b"1"], "jpg_1": [b"2"], "label_0": [0], "label_1": [1]}
    pq.write_table(pa.table(columns), tmp_path / "part-0.parquet")
    assert TripletStore.open(tmp_path)[0].chosen == b"2"


def test_labels_that_are_texts_are_refused(tmp_path: Path) -> None:
    columns = {"caption": ["a"], "jpg_0": [b"1"], "jpg_1": [b"2"], "label_0": ["10"], "label_1": ["9"]}
    pq.write_table(pa.table(columns), tmp_path / "part-0.parquet")
    with pytest.raises(UserError, match=r"part-0\.parquet: column 'label_0' holds string, not double"):
        TripletStore.open(tmp_path)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"caption": ["a"], "jpg_0": [b"1"]}), tmp_path / "part-0.parquet")
    with pytest.raises(UserError, match=r"part-0\.parquet: column 'jpg_1' is missing"):
        TripletStore.open(tmp_path)


def test_labels_that_are_no_preference_are_refused(tmp_path: Path) -> None:
    write_pairs(tmp_path, 0, [pair(0), replace(pair(1), label_0=1.0, label_1=1.0)])
    with pytest.raises(UserError, match=r"part-00000\.parquet: row 1: label_0 1\.0 and label_1 1\.0"):
        TripletStore.open(tmp_path)


def test_an_empty_image_is_named(tmp_path: Path) -> None:
    write_pairs(tmp_path, 0, [pair(0), replace(pair(1), jpg_1=b"")])
    with pytest.raises(UserError, match="row 1: column 'jpg_1' is empty"):
        list(TripletStore.open(tmp_path))


@pytest.mark.parametrize("kept", [0, 100, -1], ids=["empty", "torn", "one byte short"])
def test_a_torn_shard_is_named(tmp_path: Path, kept: int) -> None:
    write_pairs(tmp_path, 0, [pair(0)])
    path = write_pairs(tmp_path, 1, [pair(1)])
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"part-00001\.parquet: not a whole Parquet file"):
        TripletStore.open(tmp_path)


def test_a_flipped_bit_in_an_image_is_noticed(tmp_path: Path) -> None:
    path = write_pairs(tmp_path, 0, [pair(7)])
    path.write_bytes(path.read_bytes().replace(b"first 7", b"fIrst 7"))
    store = TripletStore.open(tmp_path)
    with pytest.raises(UserError, match=r"part-00000\.parquet: .*damaged"):
        store[0]


def test_a_folder_without_parts_is_no_store(tmp_path: Path) -> None:
    write_scores(tmp_path, 0, [])
    with pytest.raises(UserError, match=r"no part-\*\.parquet in it"):
        TripletStore.open(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none: no such folder"):
        TripletStore.open(tmp_path / "none")


def test_the_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    prints = []
    for name, numbers in (("a", [0]), ("same", [0]), ("other", [1])):
        (tmp_path / name).mkdir()
        write_pairs(tmp_path / name, 0, [pair(number) for number in numbers])
        prints.append(TripletStore.open(tmp_path / name).fingerprint())
    assert prints[0] == prints[1] != prints[2]


def test_the_files_are_read_once_for_the_fingerprint_and_never_where_it_is_known(tmp_path: Path) -> None:
    written = write_pairs(tmp_path, 0, [pair(0)])
    store, other = TripletStore.open(tmp_path), TripletStore.open(tmp_path)
    found = store.fingerprint()
    other.known_as(found)
    written.unlink()
    assert store.fingerprint() == other.fingerprint() == found


def test_scores_do_not_change_the_fingerprint(tmp_path: Path) -> None:
    write_pairs(tmp_path, 0, [pair(0)])
    before = TripletStore.open(tmp_path).fingerprint()
    write_scores(tmp_path, 0, [Score("i-0", "s", 1.0, "a", 3)])
    assert TripletStore.open(tmp_path).fingerprint() == before


def test_scores_come_back_in_order(tmp_path: Path) -> None:
    write_scores(tmp_path, 1, [Score("i-1", "s", 0.1, "b", 4)])
    write_scores(tmp_path, 0, [Score("i-0", "s", -2.5, "a", 2**63 - 1)])
    assert read_scores(tmp_path) == {
        "image_id": ["i-0", "i-1"],
        "scorer": ["s", "s"],
        "score": [-2.5, 0.1],
        "caption": ["a", "b"],
        "seed": [2**63 - 1, 4],
    }


def test_a_torn_scores_file_is_named(tmp_path: Path) -> None:
    path = write_scores(tmp_path, 0, [Score("i-0", "s", 1.0, "a", 3)])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"scores-00000\.parquet: not a whole Parquet file"):
        read_scores(tmp_path)


def labelled(folder: Path, *, complete: bool = True) -> None:
    """Two parts of one pair each, as `diffdpo label` leaves them."""
    run = claim(folder, "label", {})
    for shard in range(2):
        write_pairs(folder, shard, [pair(shard)])
    if complete:
        run.finish({"pairs": 2})


def test_a_store_that_is_not_finished_is_refused(tmp_path: Path) -> None:
    labelled(tmp_path, complete=False)
    with pytest.raises(UserError, match="labelling is not finished; give the same `diffdpo label` command again"):
        TripletStore.open(tmp_path)
    assert len(TripletStore.open(tmp_path, unfinished=True)) == 2


def test_a_store_that_lost_a_part_is_refused(tmp_path: Path) -> None:
    labelled(tmp_path)
    assert len(TripletStore.open(tmp_path)) == 2
    (tmp_path / "part-00001.parquet").unlink()
    with pytest.raises(
        UserError, match=r"1 pairs where manifest\.json tells of 2, so part files are missing; give the"
    ):
        TripletStore.open(tmp_path)


def test_a_store_with_parts_of_another_is_refused(tmp_path: Path) -> None:
    labelled(tmp_path)
    write_pairs(tmp_path, 7, [pair(7)])
    with pytest.raises(UserError, match=r"3 pairs where manifest\.json tells of 2, so files of another store"):
        TripletStore.open(tmp_path)


@pytest.mark.parametrize("manifest", ['{"command": "train"}', "[]", '{"files": 3}'])
def test_a_manifest_of_something_else_says_nothing_of_a_store(tmp_path: Path, manifest: str) -> None:
    write_pairs(tmp_path, 0, [pair(0)])
    (tmp_path / "manifest.json").write_text(manifest)
    assert len(TripletStore.open(tmp_path)) == 1
