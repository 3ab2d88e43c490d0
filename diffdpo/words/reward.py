"""The ground truth of the text world: what a review is worth. Exact, bounded, defined for any string.

    reward = sum of the opinions' worths - the penalties, within [-10, 10]

An opinion is worth what `lexicon` says of its words, after negation, degree, contrast and who says it. Repeating
praise does not pay: a target counts the first time only, and each repetition costs REPEATED. Nor does heaping praise of
anything at all: what the reviewed thing has not costs OFF_TOPIC, what is not a sentence of the grammar (an unfinished
one too) costs NOT_UNDERSTOOD, and after MOST_SENTENCES nothing is read and each further sentence costs TOO_MANY.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffdpo.words.reading import Opinion, Reading, Sentence, read
from diffdpo.words.subjects import Subject
from diffdpo.words.things import THINGS

BOUND = 10.0
MOST_SENTENCES = 5
"""After the heading, one that the prompt began included."""

REPEATED = 1.0
NOT_UNDERSTOOD = 2.0
OFF_TOPIC = 1.0
CLASH = 0.5
TOO_MANY = 0.5
NO_OPINION = 1.0

GENERAL_TARGETS = ("whole", "verdict")


@dataclass(frozen=True)
class Verdict:
    """How a reward came about: the sum of what counted, and how often each penalty was due."""

    sentiment: float = 0.0
    repeated: int = 0
    not_understood: int = 0
    off_topic: int = 0
    clashes: int = 0
    too_many: int = 0
    no_opinion: bool = False

    @property
    def reward(self) -> float:
        penalty = (
            REPEATED * self.repeated
            + NOT_UNDERSTOOD * self.not_understood
            + OFF_TOPIC * self.off_topic
            + CLASH * self.clashes
            + TOO_MANY * self.too_many
            + NO_OPINION * self.no_opinion
        )
        return max(-BOUND, min(BOUND, self.sentiment - penalty))


def reward(text: str) -> float:
    """What a text (prompt and answer together) is worth, -10 to 10."""
    return judge(read(text)).reward


def rewards(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """The reward of every answer to its prompt, joined as they stand."""
    return [reward(prompt + answer) for prompt, answer in zip(prompts, completions, strict=True)]


def judge(reading: Reading) -> Verdict:
    """Count what was read. Without a heading any attribute is on topic."""
    sentences = reading.sentences[:MOST_SENTENCES]
    opinions = [opinion for sentence in sentences if sentence for opinion in sentence.opinions]
    on_topic = [opinion for opinion in opinions if _on_topic(opinion, reading.subject)]
    first: dict[str, float] = {}
    for opinion in on_topic:
        first.setdefault(_target(opinion), opinion.worth)
    return Verdict(
        sentiment=sum(first.values()),
        repeated=len(on_topic) - len(first),
        not_understood=sentences.count(None),
        off_topic=len(opinions) - len(on_topic),
        clashes=sum(sentence.clash for sentence in sentences if isinstance(sentence, Sentence)),
        too_many=len(reading.sentences) - len(sentences),
        no_opinion=not any(first.values()),
    )


def _on_topic(opinion: Opinion, subject: Subject | None) -> bool:
    """Plain statements (worth 0) and words about the whole always are."""
    if subject is None or opinion.worth == 0 or opinion.target in GENERAL_TARGETS:
        return True
    named = {attribute.name for attribute in subject.attributes}
    return opinion.target in named | {f"the {subject.thing}", f"{subject.kind} verdict"}


def _target(opinion: Opinion) -> str:
    """`it` and `the kettle` are one target, all closing words are one."""
    if opinion.target.endswith("verdict"):
        return "verdict"
    return "whole" if opinion.target.removeprefix("the ") in _THINGS else opinion.target


_THINGS = {thing for things in THINGS.values() for thing in things}
