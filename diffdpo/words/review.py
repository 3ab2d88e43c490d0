"""Reviews: a prompt (heading and opening), an answer, and what each sentence of both says."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from diffdpo.words.lexicon import OPENINGS
from diffdpo.words.reading import Opinion, Reading, Sentence
from diffdpo.words.subjects import Subject, split_subjects
from diffdpo.words.writer import Writer

MOODS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Shares of good opinions; every review has one of them, so that reviews differ and are neutral on average."""


@dataclass(frozen=True)
class Prompt:
    """The heading of a review and how it opens."""

    subject: Subject
    opening: str = ""

    def __str__(self) -> str:
        return f"{self.subject.heading} {self.opening}".strip()

    @property
    def unfinished(self) -> bool:
        return self.opening.endswith("and")


@dataclass(frozen=True)
class Review:
    """A prompt, an answer that goes on from it, and the truth of both."""

    prompt: Prompt
    sentences: tuple[str, ...]
    truth: tuple[Sentence, ...]

    @property
    def completion(self) -> str:
        """Begins with a space, so that prompt and completion join as they stand and share no token."""
        return "".join(f" {sentence}" for sentence in self.sentences)

    @property
    def text(self) -> str:
        return f"{self.prompt}{self.completion}"

    @property
    def reading(self) -> Reading:
        """How a reader should understand the text."""
        return Reading(self.prompt.subject, self.truth)


def draw_prompt(rng: random.Random, *, held_out: bool) -> Prompt:
    subject = rng.choice(split_subjects(held_out=held_out))
    return Prompt(subject, rng.choice(("", *OPENINGS[subject.kind])))


def all_prompts(*, held_out: bool) -> list[Prompt]:
    """Every prompt of one side of the split."""
    return [
        Prompt(subject, opening)
        for subject in split_subjects(held_out=held_out)
        for opening in ("", *OPENINGS[subject.kind])
    ]


def write_review(rng: random.Random, prompt: Prompt) -> Review:
    """An answer of one to four sentences in a mood of its own; no target comes twice."""
    writer = Writer(rng, prompt.subject, rng.choice(MOODS))
    n = rng.choices((1, 2, 3, 4), (1, 3, 3, 2))[0]
    parts = [writer.sentence(after_and=prompt.unfinished), *(writer.sentence() for _ in range(n - 1))]
    if n > 1 and rng.random() < 0.4:
        parts[-1] = writer.closing()
    texts, truth = [text for text, _ in parts], [sentence for _, sentence in parts]
    if not prompt.unfinished:
        texts[0] = _capital(texts[0])
    if prompt.unfinished:
        truth[0] = replace(truth[0], opinions=(Opinion("lead"), *truth[0].opinions))
    elif prompt.opening:
        truth.insert(0, Sentence((Opinion(prompt.opening.lower().removesuffix(".")),)))
    return Review(prompt, (texts[0], *map(_capital, texts[1:])), tuple(truth))


def draw_review(rng: random.Random, *, held_out: bool) -> Review:
    """A review of any subject of one side of the split."""
    return write_review(rng, draw_prompt(rng, held_out=held_out))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
