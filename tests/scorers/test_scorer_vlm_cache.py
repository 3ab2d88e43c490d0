"""cache.py: what is kept comes back, and nothing else does."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from scorers import ScorerError
from scorers.chat.answers import Answer
from scorers.chat.cache import AnswerCache, key, user_folder

NAME = key({"model": "m"}, ["Rating", "a cat"])


def file_of(folder: Path) -> Path:
    [path] = folder.rglob("*.json")
    return path


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    answer = Answer(7.5, "Score: 7.5 ☃")
    AnswerCache(tmp_path).put(NAME, answer)
    assert AnswerCache(tmp_path).get(NAME) == answer


def test_what_was_never_kept_is_not_there(tmp_path: Path) -> None:
    assert AnswerCache(tmp_path / "new").get(NAME) is None


def test_every_beginning_of_a_file_is_no_answer(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    cache.put(NAME, Answer(8.0, "8"))
    path = file_of(tmp_path)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert cache.get(NAME) is None
    path.write_bytes(whole)
    assert cache.get(NAME) == Answer(8.0, "8")


@pytest.mark.parametrize(
    "content", ["8", "[]", "null", "{}", '{"value": NaN, "text": ""}', '{"value": {}, "text": ""}']
)
def test_foreign_content_is_no_answer(tmp_path: Path, content: str) -> None:
    cache = AnswerCache(tmp_path)
    cache.put(NAME, Answer(8.0, "8"))
    file_of(tmp_path).write_text(content)
    assert cache.get(NAME) is None


def test_writers_of_one_answer_do_not_disturb_each_other(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    seen: list[Answer | None] = []

    def work(number: int) -> None:
        for _ in range(50):
            cache.put(NAME, Answer(float(number), "x" * number * 1000))
            seen.append(cache.get(NAME))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert None not in seen
    assert len(list(tmp_path.rglob("*"))) == 2  # the folder and the one file, no leftovers


def test_the_key_follows_everything_in_it() -> None:
    keys = {
        key({"model": "m"}, ["a", "b"]),
        key({"model": "m2"}, ["a", "b"]),
        key({"model": "m"}, ["b", "a"]),
        key({"model": "m"}, ["ab"]),
        key({}, ["a", "b"]),
    }
    assert len(keys) == 5


def test_the_folder_is_below_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_folder() == tmp_path / "diffdpo" / "vlm"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for relative in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        assert user_folder() == tmp_path / "home" / ".cache" / "diffdpo" / "vlm"


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ScorerError, match=r"answers cannot be kept in .*file.* give cache= another folder"):
        AnswerCache(tmp_path / "file" / "cache")


def test_a_folder_that_goes_away_is_named(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "cache")
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").touch()
    with pytest.raises(ScorerError, match="answers cannot be kept"):
        cache.put(NAME, Answer(1.0, "1"))


def test_none_forgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cache = AnswerCache(None)
    cache.put(NAME, Answer(1.0, "1"))
    assert cache.get(NAME) is None
    assert list(tmp_path.iterdir()) == []


def test_a_file_holds_the_answer_and_no_question(tmp_path: Path) -> None:
    AnswerCache(tmp_path).put(NAME, Answer(1.0, "1"))
    assert json.loads(file_of(tmp_path).read_text()) == {"value": 1.0, "text": "1"}
