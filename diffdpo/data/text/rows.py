"""Rows of a file to records, by the names of their columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffdpo.data.text.hh import split_transcripts
from diffdpo.data.text.records import (
    Demonstration,
    Dialogue,
    Document,
    Prompt,
    Query,
    Ranking,
    Record,
    Turn,
    Verdict,
    pair,
)
from diffdpo.errors import UserError

SHAPES = (
    "prompt, chosen, rejected",
    "chosen, rejected (whole transcripts)",
    "prompt, answers, ranks",
    "prompt, completion",
    "prompt, completion, label",
    "messages",
    "text",
    "prompt",
)
"""The columns that a row may have, for messages."""


def record_of(where: str, row: Mapping[str, Any]) -> Record:
    """What a row says. Columns beside the known ones are ignored, as are known ones that hold nothing.

    Raises:
        UserError: no known set of columns, or a column holds something unfit; names `where` and the column.
    """
    columns = {name for name, value in row.items() if value is not None}
    if {"chosen", "rejected"} <= columns:
        return _preference(where, row)
    if "answers" in columns:
        return _ranking(where, row)
    if "completion" in columns:
        prompt, completion = _prompt(where, row), _answer(where, row, "completion")
        if "label" not in columns:
            return Demonstration(where, prompt, completion)
        if not isinstance(row["label"], bool):
            raise UserError(f"{where}: 'label' must be true (desirable) or false, not {short(row['label'])}")
        return Verdict(where, prompt, completion, row["label"])
    if "messages" in columns:
        return _dialogue(where, row)
    if "text" in columns:
        return Document(where, _text(where, row, "text"))
    if "prompt" in columns:
        return Query(where, _prompt(where, row))
    there = ", ".join(map(str, row)) or "none"
    raise UserError(f"{where}: its columns are {there}; known: {'; '.join(SHAPES)}")


def _preference(where: str, row: Mapping[str, Any]) -> Ranking:
    if row.get("prompt") is not None:
        answers = _answer(where, row, "chosen"), _answer(where, row, "rejected")
        return pair(where, _prompt(where, row), *answers)
    if isinstance(row["chosen"], str):
        return split_transcripts(where, _text(where, row, "chosen"), _text(where, row, "rejected"))
    chosen, rejected = _turns(where, row, "chosen"), _turns(where, row, "rejected")
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if turns[-1].role != "assistant":
            raise UserError(f"{where}: {name!r} must end with a turn of the assistant, not of {turns[-1].role!r}")
    if chosen[:-1] != rejected[:-1]:
        raise UserError(f"{where}: 'chosen' and 'rejected' must be the same conversation up to the last turn")
    return pair(where, chosen[:-1], chosen[-1].content, rejected[-1].content)


def _ranking(where: str, row: Mapping[str, Any]) -> Ranking:
    answers, ranks = row["answers"], row.get("ranks")
    if not isinstance(answers, list) or len(answers) < 2 or not all(isinstance(answer, str) for answer in answers):
        raise UserError(f"{where}: 'answers' must be a list of two or more texts, not {short(answers)}")
    if not isinstance(ranks, list) or len(ranks) != len(answers) or not all(_is_whole(rank) for rank in ranks):
        raise UserError(
            f"{where}: 'ranks' must be a list of {len(answers)} whole numbers, one per answer (1 is best, equal ones "
            f"tie), not {short(ranks)}"
        )
    texts = tuple(_whole_text(where, "answers", answer) for answer in answers)
    return Ranking(where, _prompt(where, row), texts, tuple(int(rank) for rank in ranks))


def _dialogue(where: str, row: Mapping[str, Any]) -> Dialogue:
    turns = _turns(where, row, "messages")
    if not any(turn.role == "assistant" for turn in turns):
        raise UserError(f"{where}: 'messages' has no turn of the assistant, so there is nothing to learn from it")
    return Dialogue(where, turns)


def _prompt(where: str, row: Mapping[str, Any]) -> Prompt:
    if isinstance(row.get("prompt"), list):
        return _turns(where, row, "prompt")
    return _text(where, row, "prompt")


def _answer(where: str, row: Mapping[str, Any], name: str) -> str:
    """A text, or a conversation of the assistant's one turn."""
    if not isinstance(row[name], list):
        return _text(where, row, name)
    turns = _turns(where, row, name)
    if len(turns) != 1 or turns[0].role != "assistant":
        raise UserError(
            f"{where}: {name!r} beside a 'prompt' must be one turn of the assistant, not {short(row[name])}"
        )
    return turns[0].content


def _turns(where: str, row: Mapping[str, Any], name: str) -> tuple[Turn, ...]:
    value = row[name]
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise UserError(f"{where}: {name!r} must be a list of turns with 'role' and 'content', not {short(value)}")
    turns = []
    for number, turn in enumerate(value, 1):
        if not isinstance(turn, Mapping) or not all(isinstance(turn.get(key), str) for key in ("role", "content")):
            raise UserError(f"{where}: turn {number} of {name!r} needs a 'role' and a 'content', not {short(turn)}")
        turns.append(Turn(turn["role"], _whole_text(where, name, turn["content"])))
    return tuple(turns)


def _text(where: str, row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise UserError(f"{where}: {name!r} must be a text, not {short(value)}")
    return _whole_text(where, name, value)


def _whole_text(where: str, name: str, value: str) -> str:
    """The text, unless no tokenizer could take it."""
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise UserError(f"{where}: {name!r} holds half a character (a lone surrogate)")
    return value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and float(value).is_integer()


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
