"""The files of a store: written a group at a time, whole or not at all, and what they remember."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from diffdpo.data.parts import ROWS_PER_GROUP, Pair, part_path, read_column, read_note, write_pairs


def pairs(n: int) -> Iterator[Pair]:
    for number in range(n):
        yield Pair("a", b"0", b"1", 1.0, 0.0, f"id-{number}", "p", "", "", None, None, "people", 1.0)


def test_pairs_are_taken_a_group_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, written = [0], []
    write_table = pq.ParquetWriter.write_table

    def counted() -> Iterator[Pair]:
        for pair in pairs(2 * ROWS_PER_GROUP + 1):
            taken[0] += 1
            yield pair

    def spied(self: pq.ParquetWriter, table: object) -> None:
        written.append(taken[0])
        write_table(self, table)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", spied)
    write_pairs(tmp_path, 0, counted())
    assert written == [ROWS_PER_GROUP, 2 * ROWS_PER_GROUP, 2 * ROWS_PER_GROUP + 1]


def test_an_error_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Iterator[Pair]:
        yield from pairs(ROWS_PER_GROUP + 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_pairs(tmp_path, 0, failing())
    assert not list(tmp_path.iterdir())


def test_a_part_remembers_what_was_known_at_its_end(tmp_path: Path) -> None:
    seen: list[str] = []

    def noted() -> Iterator[Pair]:
        for pair in pairs(3):
            seen.append(pair.pair_id)
            yield pair

    write_pairs(tmp_path, 0, noted(), lambda: ",".join(seen))
    assert read_note(part_path(tmp_path, 0)) == "id-0,id-1,id-2"
    assert read_column(part_path(tmp_path, 0), "pair_id") == seen
    write_pairs(tmp_path, 1, [])
    assert read_note(part_path(tmp_path, 1)) is None
    assert read_column(part_path(tmp_path, 1), "pair_id") == []
