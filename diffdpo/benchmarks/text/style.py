"""What tuning does to how answers are written: repetition and length. In words, which every tokenizer shares."""

from __future__ import annotations

from collections.abc import Sequence

REPEATED_N = 4


def n_words(text: str) -> int:
    return len(text.split())


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """All runs of `n` words, in lower case."""
    words = text.lower().split()
    return [tuple(words[place : place + n]) for place in range(len(words) - n + 1)]


def repeated(text: str, n: int = REPEATED_N) -> float:
    """Share of a text's n-grams that it has said before, 0..1 (seq-rep-n, Welleck et al. 2020); 0 without any."""
    found = ngrams(text, n)
    return 1 - len(set(found)) / len(found) if found else 0.0


def distinct(texts: Sequence[str], n: int) -> float:
    """Different n-grams by all n-grams of some texts together, 0..1 (distinct-n, Li et al. 2016); 0 without any.

    It falls with the number of words, so that only sets of about the same size compare.
    """
    found = [ngram for text in texts for ngram in ngrams(text, n)]
    return len(set(found)) / len(found) if found else 0.0
