"""What a recipe takes from a record. Pure; counts what it leaves out, by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from diffdpo.data.text.records import Demonstration, Dialogue, Document, Prompt, Query, Ranking, Record, Verdict
from diffdpo.errors import UserError

Purpose = Literal["demonstrations", "pairs", "rankings", "verdicts", "prompts", "texts"]

EMPTY = "an empty answer"
EQUAL = "chosen equal to rejected"
UNDESIRABLE = "being undesirable"
TIED = "all answers tied"
EMPTY_PROMPT = "an empty prompt"
EMPTY_TEXT = "an empty text"


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers to one prompt, not yet tokenised; `ranks` as in `Ranking`. A verdict is rank 1, desirable, or 2."""

    where: str
    prompt: Prompt
    answers: tuple[str, ...]
    ranks: tuple[int, ...]


Item = Answers | Dialogue | Document | Query


def items(record: Record, purpose: Purpose, dropped: Counter[str]) -> Iterator[Item]:
    """What `record` gives to learn from: nothing, one item or several.

    Args:
        dropped: counts what is left out, by reason.

    Raises:
        UserError: a record of a kind that this recipe cannot learn from.
    """
    yield from _TAKE[purpose](record, dropped)


def _demonstrations(record: Record, dropped: Counter[str]) -> Iterator[Item]:
    """Demonstrations, the assistant's turns, plain text; of ranked or judged answers the best ones."""
    match record:
        case Dialogue():
            yield from _unless_silent(record, dropped)
        case Document():
            yield from [record] if record.text.strip() else _drop(dropped, EMPTY)
        case Demonstration():
            yield from _unless_empty(Answers(record.where, record.prompt, (record.completion,), (1,)), dropped)
        case Verdict():
            one = Answers(record.where, record.prompt, (record.completion,), (1,))
            yield from _unless_empty(one, dropped) if record.desirable else _drop(dropped, UNDESIRABLE)
        case Ranking():
            best = record.answers[record.ranks.index(min(record.ranks))]
            yield from _unless_empty(Answers(record.where, record.prompt, (best,), (1,)), dropped)
        case Query():
            raise _unfit(record, "answers: prompt and completion, messages, or text")


def _prompts(record: Record, dropped: Counter[str]) -> Iterator[Item]:
    """The prompt of whatever has one, to be answered by the model; of a dialogue what comes before its last answer."""
    match record:
        case Document():
            raise _unfit(record, "prompts")
        case Dialogue():
            last = max(place for place, turn in enumerate(record.turns) if turn.role == "assistant")
            prompt: Prompt = record.turns[:last]
        case _:
            prompt = record.prompt
    empty = not (prompt.strip() if isinstance(prompt, str) else prompt)
    yield from _drop(dropped, EMPTY_PROMPT) if empty else [Query(record.where, prompt)]


def _texts(record: Record, dropped: Counter[str]) -> Iterator[Item]:
    """Plain text alone."""
    if not isinstance(record, Document):
        raise _unfit(record, "plain text: text")
    yield from [record] if record.text.strip() else _drop(dropped, EMPTY_TEXT)


def _pairs(record: Record, dropped: Counter[str]) -> Iterator[Item]:
    """Preference pairs; of a ranking all pairs of which one is better."""
    for ranking in _rankings(record, dropped):
        assert isinstance(ranking, Answers)
        for i, j in combinations(range(len(ranking.answers)), 2):
            if ranking.ranks[i] != ranking.ranks[j]:
                w, l = (i, j) if ranking.ranks[i] < ranking.ranks[j] else (j, i)  # noqa: E741
                chosen, rejected = ranking.answers[w], ranking.answers[l]
                both = Answers(ranking.where, ranking.prompt, (chosen, rejected), (1, 2))
                yield from _drop(dropped, EQUAL) if chosen.strip() == rejected.strip() else [both]


def _rankings(record: Record, dropped: Counter[str]) -> Iterator[Item]:
    if not isinstance(record, Ranking):
        raise _unfit(record, "answers beside each other: prompt, chosen, rejected; or prompt, answers, ranks")
    if len(record.answers) == 2 and record.answers[0].strip() == record.answers[1].strip():
        yield from _drop(dropped, EQUAL)
    elif len(set(record.ranks)) == 1:
        yield from _drop(dropped, TIED)
    else:
        yield from _without_empty(record, dropped)


def _without_empty(record: Ranking, dropped: Counter[str]) -> Iterator[Item]:
    """The answers that say something, as long as one of them is better than another."""
    said = [place for place, answer in enumerate(record.answers) if answer.strip()]
    dropped.update([EMPTY] * (len(record.answers) - len(said)))
    ranks = tuple(record.ranks[place] for place in said)
    if len(set(ranks)) > 1:
        yield Answers(record.where, record.prompt, tuple(record.answers[place] for place in said), ranks)
    elif len(said) > 1:
        yield from _drop(dropped, TIED)


def _verdicts(record: Record, dropped: Counter[str]) -> Iterator[Item]:
    """Judged answers; both of a pair."""
    if isinstance(record, Verdict):
        rank = 1 if record.desirable else 2
        yield from _unless_empty(Answers(record.where, record.prompt, (record.completion,), (rank,)), dropped)
        return
    for pair in _pairs(record, dropped):
        assert isinstance(pair, Answers)
        for answer, rank in zip(pair.answers, pair.ranks, strict=True):
            yield Answers(pair.where, pair.prompt, (answer,), (rank,))


def _unless_empty(answers: Answers, dropped: Counter[str]) -> Iterator[Item]:
    yield from [answers] if all(answer.strip() for answer in answers.answers) else _drop(dropped, EMPTY)


def _unless_silent(dialogue: Dialogue, dropped: Counter[str]) -> Iterator[Item]:
    said = [turn.content.strip() for turn in dialogue.turns if turn.role == "assistant"]
    yield from [dialogue] if all(said) else _drop(dropped, EMPTY)


def _drop(dropped: Counter[str], reason: str) -> Iterator[Item]:
    dropped[reason] += 1
    return iter(())


def _unfit(record: Record, wanted: str) -> UserError:
    return UserError(f"{record.where}: a {type(record).__name__.lower()}, but this method learns from {wanted}")


_TAKE: dict[Purpose, Callable[[Record, Counter[str]], Iterator[Item]]] = {
    "demonstrations": _demonstrations,
    "pairs": _pairs,
    "rankings": _rankings,
    "verdicts": _verdicts,
    "prompts": _prompts,
    "texts": _texts,
}
