"""Keeping what is harmful out of the data: what flags texts, which texts of a record are looked at, and the count."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol

from diffdpo.data.text.records import (
    Demonstration,
    Dialogue,
    Document,
    Query,
    Ranking,
    Record,
    Verdict,
    prompt_text,
)
from diffdpo.errors import UserError

FLAGGED = "flagged as harmful"
_AT_ONCE = 256
"""Records whose texts are handed over together."""


class Moderator(Protocol):
    """Says of texts, prompts or answers, whether they are harmful."""

    def flagged(self, texts: Sequence[str]) -> list[bool]: ...


class WordList:
    """Flags what has one of some words or phrases in it, as whole words, in whatever case."""

    def __init__(self, path: str | Path) -> None:
        """Read a file of one word or phrase a line; empty lines and those that begin with # are skipped.

        Raises:
            UserError: it cannot be read, or holds none.
        """
        try:
            lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: not a list of words that can be read ({error})") from None
        words = sorted({" ".join(line.lower().split()) for line in lines if line and not line.startswith("#")})
        if not words:
            raise UserError(f"{path}: no word in it")
        any_of = "|".join(r"\s+".join(map(re.escape, word.split())) for word in words)
        self._pattern = re.compile(rf"(?<!\w)(?:{any_of})(?!\w)")

    def flagged(self, texts: Sequence[str]) -> list[bool]:
        return [self._pattern.search(text.lower()) is not None for text in texts]


def harmless(records: Sequence[Record], moderator: Moderator) -> tuple[list[Record], int]:
    """The records without a flagged text in what they teach, and how many were left out."""
    kept: list[Record] = []
    rest = iter(records)
    while some := list(islice(rest, _AT_ONCE)):
        texts = [taught(record) for record in some]
        flags = iter(moderator.flagged([text for own in texts for text in own]))
        for record, own in zip(some, texts, strict=True):
            if True not in list(islice(flags, len(own))):
                kept.append(record)
    return kept, len(records) - len(kept)


def taught(record: Record) -> list[str]:
    """The prompt, and the answers that are to be imitated or preferred. Those to be avoided may be harmful: that is
    what teaches to avoid them."""
    return list(_taught(record))


def _taught(record: Record) -> Iterator[str]:
    match record:
        case Ranking():
            best = min(record.ranks)
            answers = [answer for answer, rank in zip(record.answers, record.ranks, strict=True) if rank == best]
            yield from (prompt_text(record.prompt), *answers)
        case Demonstration():
            yield from (prompt_text(record.prompt), record.completion)
        case Verdict():
            yield prompt_text(record.prompt)
            if record.desirable:
                yield record.completion
        case Dialogue():
            yield from (turn.content for turn in record.turns)
        case Document():
            yield record.text
        case Query():
            yield prompt_text(record.prompt)
