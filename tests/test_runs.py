"""Run folders: claimed once, gone on with, refused."""

import json
import re

import pytest

from diffdpo.errors import UserError
from diffdpo.runs import claim, content_hash, read_manifest, write_bytes

SETTINGS = {"seed": 1, "loss": {"beta": 5.0}}


def test_new_then_partial_then_complete(tmp_path):
    run = claim(tmp_path / "r", "train", SETTINGS)
    assert run.state == "new"
    assert claim(tmp_path / "r", "train", SETTINGS).state == "partial"
    run.finish({"loss": 0.5})
    assert claim(tmp_path / "r", "train", SETTINGS).state == "complete"
    assert read_manifest(tmp_path / "r")["results"] == {"loss": 0.5}


def test_differing_keys_are_named(tmp_path):
    claim(tmp_path / "r", "train", SETTINGS)
    with pytest.raises(UserError, match=re.escape("loss.beta: there 5.0, now 6.0; seed: there 1, now 2")):
        claim(tmp_path / "r", "train", {"seed": 2, "loss": {"beta": 6.0}})


def test_changed_input_is_noticed(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a")
    claim(tmp_path / "r", "label", {}, [prompts])
    prompts.write_text("b")
    with pytest.raises(UserError, match=r"prompts\.txt"):
        claim(tmp_path / "r", "label", {}, [prompts])


def test_another_command_or_foreign_files_are_refused(tmp_path):
    claim(tmp_path / "r", "train", {})
    with pytest.raises(UserError, match="made by `diffdpo train`"):
        claim(tmp_path / "r", "label", {})
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x.jpg").touch()
    with pytest.raises(UserError, match="not made by diffdpo"):
        claim(tmp_path / "photos", "label", {})
    assert sorted(p.name for p in (tmp_path / "photos").iterdir()) == ["x.jpg"]


def test_damaged_manifest_is_named(tmp_path):
    claim(tmp_path / "r", "train", {})
    (tmp_path / "r" / "manifest.json").write_text('{"command"')
    with pytest.raises(UserError, match=r"manifest\.json: not valid JSON"):
        claim(tmp_path / "r", "train", {})


def test_manifest_tells_versions_and_holds_no_time(tmp_path):
    claim(tmp_path / "a", "train", SETTINGS)
    claim(tmp_path / "b", "train", SETTINGS)
    a, b = ((tmp_path / name / "manifest.json").read_bytes() for name in "ab")
    assert a == b
    assert json.loads(a)["versions"]["torch"]


def test_content_hash_follows_names_and_bytes(tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        write_bytes(tmp_path / name / "f", b"same")
    assert content_hash(tmp_path / "x") == content_hash(tmp_path / "y")
    write_bytes(tmp_path / "y" / "f", b"other")
    assert content_hash(tmp_path / "x") != content_hash(tmp_path / "y")


def test_writing_leaves_no_temporary_file(tmp_path):
    write_bytes(tmp_path / "f", b"1")
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
