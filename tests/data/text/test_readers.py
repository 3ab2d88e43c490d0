"""Every file format and every shape of a row; what is unfit is named by file and row."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffdpo.data.text.readers import open_text
from diffdpo.data.text.records import Demonstration, Dialogue, Document, Query, Ranking, Turn, Verdict
from diffdpo.errors import UserError

SHARED = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: A word?\n\nAssistant:"
ROWS = [
    {"prompt": "a", "chosen": "b", "rejected": "c", "other": 1},
    {"chosen": SHARED + " Yes. ", "rejected": SHARED + " Yellow."},
    {"prompt": "a", "answers": ["x", "y", "z"], "ranks": [2, 1, 2]},
    {"prompt": [{"role": "user", "content": "hi"}], "completion": "ho"},
    {"prompt": "a", "completion": "b", "label": False},
    {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]},
    {"text": "once", "completion": None},
    {"prompt": " a?", "id": 3},
    {
        "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "1"}],
        "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "2"}],
    },
]


def write(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_shape_of_a_row(tmp_path):
    path = write(tmp_path / "a.jsonl", *ROWS)
    pair, hh, ranking, demonstration, verdict, dialogue, document, query, turns = open_text(path).records
    assert pair == Ranking(f"{path}: line 1", "a", ("b", "c"), (1, 2))
    assert (hh.prompt, hh.answers) == (SHARED, (" Yes.", " Yellow."))
    assert ranking == Ranking(f"{path}: line 3", "a", ("x", "y", "z"), (2, 1, 2))
    assert demonstration == Demonstration(f"{path}: line 4", (Turn("user", "hi"),), "ho")
    assert verdict == Verdict(f"{path}: line 5", "a", "b", False)
    assert dialogue == Dialogue(f"{path}: line 6", (Turn("user", "hi"), Turn("assistant", "ho")))
    assert document == Document(f"{path}: line 7", "once")
    assert query == Query(f"{path}: line 8", " a?")
    assert turns == Ranking(f"{path}: line 9", (Turn("user", "q"),), ("1", "2"), (1, 2))


def test_hh_answers_that_share_their_first_words_start_at_the_turn(tmp_path):
    """The common letters reach into the answer; the boundary is the assistant's turn before them."""
    path = write(tmp_path / "a.jsonl", {"chosen": SHARED + " Yes, of course", "rejected": SHARED + " Yes, never"})
    assert open_text(path).records[0].answers == (" Yes, of course", " Yes, never")


def test_hh_transcripts_that_part_early_keep_their_turns(tmp_path):
    chosen = SHARED + " One.\n\nHuman: More?\n\nAssistant: Two."
    record = open_text(write(tmp_path / "a.jsonl", {"chosen": chosen, "rejected": SHARED + " None."})).records[0]
    assert record.prompt == SHARED
    assert record.answers == (" One.\n\nHuman: More?\n\nAssistant: Two.", " None.")


def test_parquet_arrow_and_gzip_hold_the_same(tmp_path):
    rows = [{"prompt": [{"role": "user", "content": str(n)}], "chosen": "b", "rejected": "c"} for n in range(5)]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    with pa.OSFile(str(tmp_path / "b.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as whole:
        whole.write_table(table)
    write(tmp_path / "a.jsonl", *rows)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    found = [
        [(record.prompt, record.answers) for record in open_text(tmp_path / name).records]
        for name in ("a.parquet", "a.arrow", "b.arrow", "a.jsonl", "a.jsonl.gz")
    ]
    assert len(found[0]) == 5
    assert all(other == found[0] for other in found)


def test_a_folder_of_splits(tmp_path, capsys):
    write(tmp_path / "d" / "train" / "data.jsonl", ROWS[0], ROWS[0])
    write(tmp_path / "d" / "test" / "data.jsonl", ROWS[2])
    assert len(open_text(tmp_path / "d").records) == 2
    assert "the split `train` is read, 1 of 2 files" in capsys.readouterr().err
    assert len(open_text(tmp_path / "d", "test").records) == 1
    with pytest.raises(UserError, match=r"data.split: no file or folder in .* is called dev"):
        open_text(tmp_path / "d", "dev")


def test_the_fingerprint_follows_the_content_and_not_the_place(tmp_path):
    first, second = write(tmp_path / "a.jsonl", ROWS[0]), write(tmp_path / "b" / "c.jsonl", ROWS[0])
    assert open_text(first).fingerprint() == open_text(second).fingerprint()
    assert open_text(first).fingerprint() != open_text(write(second, ROWS[2])).fingerprint()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "a"}, "its columns are question; known: prompt, chosen, rejected"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "'prompt' must be a text, not 3"),
        ({"prompt": "a", "chosen": "\ud800", "rejected": "b"}, "lone surrogate"),
        ({"chosen": "a", "rejected": "b"}, "share no beginning"),
        ({"prompt": "a", "answers": ["x"], "ranks": [1]}, "'answers' must be a list of two or more texts"),
        ({"prompt": "a", "answers": ["x", "y"], "ranks": [1]}, "'ranks' must be a list of 2 whole numbers"),
        (
            {"prompt": "a", "answers": ["x", "y"], "ranks": [1, float("nan")]},
            "'ranks' must be a list of 2 whole numbers",
        ),
        (
            {"prompt": "a", "answers": ["x", "y"], "ranks": [1, float("inf")]},
            "'ranks' must be a list of 2 whole numbers",
        ),
        ({"prompt": "a", "answers": ["x", "\ud800"], "ranks": [1, 2]}, "'answers' holds half a character"),
        ({"messages": [{"role": "assistant", "content": "\ud800"}]}, "'messages' holds half a character"),
        ({"prompt": "a", "completion": "b", "label": 1}, "'label' must be true"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "no turn of the assistant"),
        ({"messages": [{"role": "user"}]}, "turn 1 of 'messages' needs a 'role' and a 'content'"),
        (["a"], "not an object"),
    ],
)
def test_an_unfit_row_is_named(tmp_path, row, message):
    path = write(tmp_path / "a.jsonl", ROWS[0], row)
    with pytest.raises(UserError, match=rf"a\.jsonl: line 2: .*{message}"):
        open_text(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n{oh', "a.jsonl: line 2: not valid JSON"),
        ("a.jsonl", b'{"text": "\xff"}', "a.jsonl: line 1 is not UTF-8"),
        ("a.jsonl", b"\n", "empty, there is no record"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:-9], "a.jsonl.gz: damaged after line"),
        ("a.parquet", b"PAR1", "a.parquet: damaged after 0 rows"),
        ("a.arrow", b"oh no", "a.arrow: damaged after 0 rows"),
        ("a.csv", b"", "not a kind of file that is known"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_text(tmp_path / name)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        open_text(tmp_path / "none")
    with pytest.raises(UserError, match=r"no \.jsonl"):
        open_text(tmp_path)


def test_published_hh_pairs():
    path = Path(__file__).parents[4] / "shared" / "data" / "hh_rlhf"
    if not path.is_dir():
        pytest.skip("the published data is not here")
    records = open_text(path).records
    assert len(records) == 2312
    assert all(record.prompt.endswith("\n\nAssistant:") for record in records)
