from __future__ import annotations

import pytest

from diffdpo.data.text.moderation import WordList, harmless, taught
from diffdpo.data.text.records import Demonstration, Dialogue, Document, Query, Ranking, Turn, Verdict
from diffdpo.errors import UserError


@pytest.fixture
def words(tmp_path) -> WordList:
    (tmp_path / "bad.txt").write_text("# what we do not say\nRat\n\nevil  plan\n")
    return WordList(tmp_path / "bad.txt")


def test_whole_words_and_phrases_are_found_in_any_case(words):
    texts = ["a RAT!", "rats", "a moderate one", "an Evil\nplan.", "evil", "rat-like"]
    assert words.flagged(texts) == [True, False, False, True, False, True]


def test_what_is_taught_is_looked_at_and_what_is_to_be_avoided_is_not(words):
    records = [
        Ranking("1", "p", ("fine", "rat"), (1, 2)),
        Ranking("2", "p", ("fine", "rat"), (2, 1)),
        Ranking("3", "rat", ("a", "b"), (1, 2)),
        Demonstration("4", "p", "rat"),
        Verdict("5", "p", "rat", desirable=False),
        Verdict("6", "p", "rat", desirable=True),
        Dialogue("7", (Turn("user", "a"), Turn("assistant", "rat"))),
        Document("8", "a rat"),
        Document("9", "a cat"),
        Query("10", "rat"),
        Query("11", "cat"),
    ]
    kept, left_out = harmless(records, words)
    assert [record.where for record in kept] == ["1", "5", "9", "11"]
    assert left_out == 7


def test_all_best_answers_are_taught():
    assert taught(Ranking("1", "p", ("a", "b", "c"), (1, 2, 1))) == ["p", "a", "c"]


def test_a_list_without_words_is_refused(tmp_path):
    (tmp_path / "bad.txt").write_text("# nothing\n")
    with pytest.raises(UserError, match="no word in it"):
        WordList(tmp_path / "bad.txt")
    with pytest.raises(UserError, match=r"none\.txt"):
        WordList(tmp_path / "none.txt")
