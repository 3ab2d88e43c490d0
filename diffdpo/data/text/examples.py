"""Records to tokenised examples of a length that fits, with a count of all that was left out or cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from diffdpo.data.text.purposes import Item, Purpose, items
from diffdpo.data.text.records import Dialogue, Document, Prompt, Query, Record, prompt_text
from diffdpo.data.text.tokens import Encoder, Tokens

Truncation = Literal["drop", "keep_end", "keep_start"]

LONG = "longer than data.max_length"
LONG_PROMPT = "a prompt longer than data.max_prompt_length"
NOTHING_LEFT = "nothing to learn left within data.max_length"


_ONE: tuple[int, ...] = (1,)


@dataclass(frozen=True, slots=True)
class Example:
    """One place in the order of training: a prompt with one, two or K answers.

    Attributes:
        where: the file and the row it is from.
        prompt: as text; all examples of one prompt are held out together.
        ranks: one per answer, 1 is best. Of a pair the chosen answer stands first.
        query: of a prompt that is yet to be answered, the prompt as it was given; its one answer has no tokens.
    """

    where: str
    prompt: str
    answers: tuple[Tokens, ...]
    ranks: tuple[int, ...]
    query: Prompt | None = None


@dataclass(frozen=True)
class Limits:
    """How long sequences may be, in tokens, and what becomes of longer ones.

    Attributes:
        max_length: of prompt and answer together.
        truncation: `drop` leaves out what is too long. `keep_end` and `keep_start` cut the prompt and keep that part of
            it; an answer that is too long even so loses its end, and its end token with it.
    """

    max_length: int
    max_prompt_length: int | None = None
    truncation: Truncation = "drop"


@dataclass
class Count:
    """What became of the records.

    Attributes:
        dropped: examples left out, by reason.
        cut: sequences that were shortened.
    """

    records: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    cut: int = 0

    def told(self) -> str:
        """In words, for people."""
        lost = [f"{number} left out for {reason}" for reason, number in sorted(self.dropped.items())]
        shortened = [f"{self.cut} sequences cut"] if self.cut else []
        return ", ".join([f"{self.records} records", *lost, *shortened])


def examples(
    records: Iterable[Record], purpose: Purpose, encoder: Encoder, limits: Limits
) -> tuple[list[Example], Count]:
    """All that `records` give to a recipe.

    Raises:
        UserError: a record of a kind that the recipe cannot learn from, or that the tokenizer cannot take.
    """
    count = Count()
    found: list[Example] = []
    for record in records:
        count.records += 1
        for item in items(record, purpose, count.dropped):
            found += _fitted(item, encoder, limits, count)
    return found, count


def _fitted(item: Item, encoder: Encoder, limits: Limits, count: Count) -> Iterator[Example]:
    if isinstance(item, Document):
        for piece in windows(encoder.document(item.text), limits.max_length):
            yield Example(item.where, item.text, (piece,), (1,))
        return
    if isinstance(item, Query):
        yield from _asked(item, encoder, limits, count)
        return
    if isinstance(item, Dialogue):
        whole = [encoder.dialogue(item.where, item.turns)]
        prompt, ranks = prompt_text(item.turns), _ONE
        fitted = whole if _fits(whole, limits) else _cut_dialogue(whole[0], encoder, limits, count)
    else:
        whole = [encoder.answer(item.where, item.prompt, answer) for answer in item.answers]
        prompt, ranks = prompt_text(item.prompt), item.ranks
        # Its end opens the assistant's turn, without which no answer makes sense.
        whole_or_none = limits.truncation == "keep_start" and not isinstance(item.prompt, str)
        drops = replace(limits, truncation="drop") if whole_or_none else limits
        fitted = _cut_answers(whole, encoder, drops, count)
    if fitted and not all(any(tokens.completion) for tokens in fitted):
        count.dropped[NOTHING_LEFT] += 1
    elif fitted:
        yield Example(item.where, prompt, tuple(fitted), ranks)


def _asked(query: Query, encoder: Encoder, limits: Limits, count: Count) -> Iterator[Example]:
    prompt, ids = query.prompt, tuple(encoder.prompt(query.where, query.prompt))
    room = limits.max_prompt_length or limits.max_length
    if len(ids) > room:
        if limits.truncation == "drop" or not isinstance(prompt, str):
            # What scores the answer reads a conversation turn by turn: it cannot be shown a part of one.
            count.dropped[LONG_PROMPT] += 1
            return
        count.cut += 1
        ids = _part(ids, room, encoder, limits)
        prompt = encoder.text(ids)  # what scores the answer must not see more than what gives it
    yield Example(query.where, prompt_text(query.prompt), (Tokens(ids, (False,) * len(ids)),), _ONE, query=prompt)


def _part(ids: tuple[int, ...], room: int, encoder: Encoder, limits: Limits) -> tuple[int, ...]:
    """The start or the end of a prompt that is too long, with the token that a sequence starts with if it had one."""
    if len(ids) <= room or limits.truncation == "keep_start":
        return ids[:room]
    started = ids[0] == encoder.start and room > 1
    return (encoder.start, *ids[len(ids) - room + 1 :]) if started else ids[len(ids) - room :]


def _fits(sequences: Sequence[Tokens], limits: Limits) -> bool:
    return all(len(tokens.ids) <= limits.max_length for tokens in sequences)


def _cut_dialogue(tokens: Tokens, encoder: Encoder, limits: Limits, count: Count) -> list[Tokens]:
    if limits.truncation == "drop":
        count.dropped[LONG] += 1
        return []
    count.cut += 1
    if limits.truncation == "keep_start":
        return [Tokens(tokens.ids[: limits.max_length], tokens.completion[: limits.max_length])]
    ids = _part(tokens.ids, limits.max_length, encoder, limits)
    return [Tokens(ids, (False, *tokens.completion[len(tokens.ids) - len(ids) + 1 :]))]


def _cut_answers(answers: Sequence[Tokens], encoder: Encoder, limits: Limits, count: Count) -> list[Tokens]:
    """The answers to one prompt, all with the same room for the prompt: none may see more of it than another."""
    prompts = [len(tokens.ids) - tokens.n_completion for tokens in answers]
    over_prompt = limits.max_prompt_length is not None and max(prompts) > limits.max_prompt_length
    if _fits(answers, limits) and not over_prompt:
        return list(answers)
    if limits.truncation == "drop":
        count.dropped[LONG_PROMPT if over_prompt else LONG] += 1
        return []
    longest = max(tokens.n_completion for tokens in answers)
    room = limits.max_length - longest if limits.max_prompt_length is None else limits.max_prompt_length
    room = min(max(room, 1), limits.max_length - 1)
    short = [_cut(tokens, room, encoder, limits) for tokens in answers]
    count.cut += sum(len(new.ids) < len(old.ids) for new, old in zip(short, answers, strict=True))
    return short


def _cut(tokens: Tokens, room: int, encoder: Encoder, limits: Limits) -> Tokens:
    """With at most `room` tokens of the prompt, and as much of the answer as then fits."""
    n_prompt = len(tokens.ids) - tokens.n_completion
    prompt = _part(tokens.ids[:n_prompt], room, encoder, limits)
    answer = tokens.ids[n_prompt:][: limits.max_length - len(prompt)]
    return Tokens((*prompt, *answer), (*[False] * len(prompt), *[True] * len(answer)))


def windows(tokens: Tokens, length: int) -> Iterator[Tokens]:
    """A long text in pieces that overlap by one token, so that every token but the first is learnt exactly once."""
    last = len(tokens.ids) - 1
    for start in range(0, last, length - 1):
        end = min(start + length, last + 1)
        yield Tokens(tokens.ids[start:end], (False, *[True] * (end - start - 1)))
