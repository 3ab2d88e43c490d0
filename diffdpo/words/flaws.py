"""Ways an answer goes wrong that have nothing to do with its mood.

Nearly all lower the reward; a cut that takes a dire word away may raise it, and the reward has the last word. Answers
to choose from hold some of them, so that a reward model learns more than to count praise.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from diffdpo.words.review import Prompt, draw_review

Sentences = Sequence[str]


def spoil(rng: random.Random, prompt: Prompt, sentences: Sentences) -> str:
    """An answer made of `sentences` with one flaw."""
    return "".join(f" {sentence}" for sentence in rng.choice(ALL)(rng, prompt, sentences))


def repeated(rng: random.Random, prompt: Prompt, sentences: Sentences) -> list[str]:
    """A sentence twice, as weak models love to do."""
    again = rng.choice(sentences)
    return [*sentences, again[0].upper() + again[1:]]


def off_topic(rng: random.Random, prompt: Prompt, sentences: Sentences) -> list[str]:
    """It ends with what was said of something else."""
    while (other := draw_review(rng, held_out=prompt.subject.held_out)).prompt.subject.kind == prompt.subject.kind:
        pass
    last = other.sentences[-1]
    return [*sentences, last[0].upper() + last[1:]]


def cut_off(rng: random.Random, prompt: Prompt, sentences: Sentences) -> list[str]:
    """The last sentence stops in the middle."""
    words = sentences[-1].split()
    return [*sentences[:-1], " ".join(words[: rng.randint(1, len(words) - 1)])]


def garbled(rng: random.Random, prompt: Prompt, sentences: Sentences) -> list[str]:
    """The words of a sentence in any order."""
    index = rng.randrange(len(sentences))
    words = sentences[index].removesuffix(".").split()
    rng.shuffle(words)
    return [*sentences[:index], " ".join(words) + ".", *sentences[index + 1 :]]


ALL: Sequence[Callable[[random.Random, Prompt, Sentences], list[str]]] = (repeated, off_topic, cut_off, garbled)
