from __future__ import annotations

import pytest

from diffdpo.benchmarks.text.style import distinct, n_words, repeated


def test_repetition_is_the_share_of_ngrams_that_came_before():
    # a b, b a, a b, b a, a c: five pairs of which three are different
    assert repeated("a b a b A c", 2) == pytest.approx(2 / 5)
    assert repeated("a b c d") == 0.0
    assert repeated("too short") == 0.0


def test_distinct_counts_over_all_texts_together():
    texts = ["a b", "a b c", ""]
    assert distinct(texts, 1) == pytest.approx(3 / 5)
    assert distinct(texts, 2) == pytest.approx(2 / 3)
    assert distinct(["a"], 2) == 0.0


def test_words_are_what_stands_between_spaces():
    assert n_words(" it's  two\nwords-long ") == 3
