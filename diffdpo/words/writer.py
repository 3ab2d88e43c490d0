"""Writes the sentences of a review, and notes what each says as it does."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from diffdpo.words.lexicon import BE, HEDGES, LIKING, MILD, PLAIN, RECOMMENDATIONS, SMALL_HALF, STRONG, VERDICTS, worth
from diffdpo.words.reading import Opinion, Sentence
from diffdpo.words.subjects import Attribute, Subject


@dataclass(frozen=True)
class _Said:
    """A clause and what it says."""

    text: str
    opinions: tuple[Opinion, ...]

    @property
    def sign(self) -> float:
        return sum(opinion.worth for opinion in self.opinions)


class Writer:
    """Sentences about one subject in one mood; every attribute, hedge and plain statement once."""

    def __init__(self, rng: random.Random, subject: Subject, mood: float) -> None:
        self.rng, self.subject, self.mood = rng, subject, mood
        self.attributes = rng.sample(subject.attributes, len(subject.attributes))
        self.whole_is_free = True
        self.plain = rng.sample(PLAIN[subject.kind], 4)
        self.hedges = rng.sample(HEDGES, len(HEDGES))
        self.tense = 1 if subject.kind != "product" or rng.random() < 0.5 else 0

    def sentence(self, *, after_and: bool = False) -> tuple[str, Sentence]:
        """The text with its full stop, and what it says. What follows an `and` has no lead of its own."""
        kinds: list[Callable[[], tuple[str, Sentence]]] = [self._single, self._two, self._contrast, self._pair]
        weights = [4, 1 if after_and else 3, 4, 1]
        if not after_and:
            kinds += [self._although, self._report, self._plain]
            weights += [2, 1, 1]
        kind = self.rng.choices(kinds, weights)[0]
        text, sentence = kind()
        if not after_and and kind in (self._single, self._two, self._contrast) and self.rng.random() < 0.15:
            hedge = self.hedges.pop()
            text, opinion = f"{hedge} {text}", Opinion(f"hedge {hedge.lower()}")
            sentence = replace(sentence, opinions=(opinion, *sentence.opinions))
        return f"{text}.", sentence

    def closing(self) -> tuple[str, Sentence]:
        good = self._good()
        table = {
            text: (f"{self.subject.kind} verdict", value) for text, value in VERDICTS[self.subject.kind].items()
        } | {text: ("verdict", value) for text, value in RECOMMENDATIONS.items()}
        text = self.rng.choice([text for text, (_, value) in table.items() if (value > 0) == good])
        return f"{text}.", Sentence((Opinion(*table[text]),))

    def _single(self) -> tuple[str, Sentence]:
        return _alone(self._clause(self._good()))

    def _two(self) -> tuple[str, Sentence]:
        first, second = self._clause(self._good()), self._clause(self._good())
        return f"{first.text} and {second.text}", Sentence(first.opinions + second.opinions)

    def _contrast(self) -> tuple[str, Sentence]:
        """`X, but Y`: mostly the mood has the last word."""
        good = self._good()
        first, second = self._clause(not good), self._clause(good)
        return f"{first.text}, but {second.text}", _weighed(first, second, (SMALL_HALF, 1.0))

    def _although(self) -> tuple[str, Sentence]:
        good = self._good()
        small, main = self._clause(not good), self._clause(good)
        if self.rng.random() < 0.5:
            return f"although {small.text}, {main.text}", _weighed(small, main, (SMALL_HALF, 1.0))
        return f"{main.text}, although {small.text}", _weighed(main, small, (1.0, SMALL_HALF))

    def _pair(self) -> tuple[str, Sentence]:
        first, second = self.attributes.pop(), self.attributes.pop()
        good, both = self._good(), self.rng.random() < 0.5
        word = self._word(MILD | STRONG, good if both else not good)
        verb = BE[both or second.plural][self.tense]
        value = worth((MILD | STRONG)[word], "" if both else "not at all")
        start, link = ("both", "and") if both else ("neither", "nor")
        text = f"{start} the {first.name} {link} the {second.name} {verb} {word}"
        return _alone(_Said(text, (Opinion(first.name, value), Opinion(second.name, value))))

    def _report(self) -> tuple[str, Sentence]:
        """What others say, and whether the writer agrees."""
        good, agrees = self._good(), self.rng.random() < 0.4
        said = self._predicate(self.attributes.pop(), good == agrees)
        end = "and I agree" if agrees else "but I disagree"
        sign = 1.0 if agrees else -1.0
        opinions = tuple(Opinion(opinion.target, sign * opinion.worth) for opinion in said.opinions)
        return f"some people say that {said.text}, {end}", Sentence(opinions)

    def _plain(self) -> tuple[str, Sentence]:
        text = self.plain.pop()
        return text, Sentence((Opinion(text.lower()),))

    def _clause(self, good: bool) -> _Said:
        if self.whole_is_free and self.rng.random() < 0.1:
            self.whole_is_free = False
            return self._predicate(None, good)
        attribute = self.attributes.pop()
        return self._liking(attribute, good) if self.rng.random() < 0.25 else self._predicate(attribute, good)

    def _liking(self, attribute: Attribute, good: bool) -> _Said:
        start = self.rng.choice([text for text, value in LIKING.items() if (value > 0) == good])
        return _Said(f"{start} the {attribute.name}", (Opinion(attribute.name, LIKING[start]),))

    def _predicate(self, attribute: Attribute | None, good: bool) -> _Said:
        """`the <attribute> <verb> <degree> <word>`; a negation says the good with a bad word."""
        words = attribute.worth if attribute else MILD | STRONG
        negated = self.rng.random() < 0.3
        word = self._word(words, good != negated)
        degree = self._degree(word, negated, good)
        subject = f"the {attribute.name}" if attribute else self.rng.choice(("it", f"the {self.subject.thing}"))
        verb = self._verb(attribute is not None and attribute.plural, negated)
        name = attribute.name if attribute else "whole" if subject == "it" else subject
        return _Said(f"{subject} {_spell(verb, degree, word)}", (Opinion(name, worth(words[word], degree)),))

    def _degree(self, word: str, negated: bool, good: bool) -> str:
        strong = word in STRONG
        degrees: tuple[str, ...] = ("", "", "absolutely", "truly")
        if negated:
            degrees = ("not", "not at all", "far from", "anything but", *(() if strong else ("not very",)))
        elif not strong:
            soft = "quite" if good or word in MILD else "a bit"
            fairly = ("fairly",) if good and word != "fair" else ()
            degrees = ("", "", "", "very", "very", "quite", soft, "really", *fairly)
        return self.rng.choice(degrees)

    def _verb(self, plural: bool, negated: bool) -> str:
        """A negation stands best after a form of `be`."""
        return BE[plural][self.tense] if negated or self.rng.random() < 0.8 else self.rng.choice(BE[plural][2:])

    def _word(self, words: Mapping[str, float], good: bool) -> str:
        """A word of the wanted sign; two in three are the attribute's own."""
        fitting = [word for word, value in words.items() if (value > 0) == good]
        own = [word for word in fitting if word not in MILD and word not in STRONG]
        return self.rng.choice(own if own and self.rng.random() < 2 / 3 else fitting)

    def _good(self) -> bool:
        return self.rng.random() < self.mood


def _spell(verb: str, degree: str, word: str) -> str:
    if degree == "not at all":
        return f"{verb} not {word} at all"
    return f"{verb} {degree} {word}".replace("  ", " ")


def _alone(said: _Said) -> tuple[str, Sentence]:
    return said.text, Sentence(said.opinions)


def _weighed(first: _Said, second: _Said, weights: tuple[float, float]) -> Sentence:
    opinions = [
        Opinion(opinion.target, weight * opinion.worth)
        for weight, said in zip(weights, (first, second), strict=True)
        for opinion in said.opinions
    ]
    return Sentence(tuple(opinions), clash=first.sign * second.sign >= 0)
