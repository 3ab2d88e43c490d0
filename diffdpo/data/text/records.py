"""What text recipes learn from, as plain records. Knows no file format, no tokenizer and no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Turn(NamedTuple):
    """One message of a conversation."""

    role: str
    """`system`, `user` or `assistant`, as the model's chat template knows them."""
    content: str


Prompt = str | tuple[Turn, ...]
"""Plain text, which an answer continues; or a conversation, which the model's chat template renders."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """K answers to a prompt and how good they are beside each other. A preference pair is one of two.

    Attributes:
        where: the file and the row, for messages.
        ranks: one per answer; 1 is best, equal ranks are a tie.
    """

    where: str
    prompt: Prompt
    answers: tuple[str, ...]
    ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Demonstration:
    """An answer to imitate."""

    where: str
    prompt: Prompt
    completion: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer that was judged on its own."""

    where: str
    prompt: Prompt
    completion: str
    desirable: bool


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A whole conversation; what the assistant says in it is to be imitated."""

    where: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """Plain text, every token of which is learnt."""

    where: str
    text: str


@dataclass(frozen=True, slots=True)
class Query:
    """A prompt alone, to be answered."""

    where: str
    prompt: Prompt


Reward = Callable[[Sequence[Prompt], Sequence[str]], Sequence[float]]
"""Prompts and their answers to scores, the higher the better: a trained reward model, or a program."""

Record = Ranking | Demonstration | Verdict | Dialogue | Document | Query


def pair(where: str, prompt: Prompt, chosen: str, rejected: str) -> Ranking:
    """A preference of one answer over another."""
    return Ranking(where, prompt, (chosen, rejected), (1, 2))


def prompt_text(prompt: Prompt) -> str:
    """A prompt as one text: what tells prompts apart."""
    return prompt if isinstance(prompt, str) else "\n".join(f"{turn.role}: {turn.content}" for turn in prompt)
