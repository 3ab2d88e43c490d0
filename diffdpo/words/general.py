"""Plain texts about anything but opinions: counting, sums, small facts, descriptions, stories, dialogues, letters.

With the reviews they are what the tiny model is pretrained on, and they show what tuning on reviews costs elsewhere.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from functools import cache

from diffdpo.words.facts import DAYS, NUMBERS, article, counting, facts, sums
from diffdpo.words.subjects import Subject, split_subjects

HELD_OUT_TENTHS = 1
"""Tenths of the texts, by a hash of the text, that no training may see."""

WOMEN = ("Anna", "Mia", "Lena", "Rosa")
MEN = ("Tom", "Ben", "Paul", "Karl")
KIN = ("sister", "brother", "aunt", "uncle", "neighbour", "friend")
SPOTS = ("in the hall", "in the kitchen", "by the window", "behind the door", "under the stairs", "in the garden")
SMALL_THINGS = ("key", "letter", "map", "book", "coin", "ticket", "newspaper", "hat")
HIDING = ("under the mat", "in the drawer", "on the shelf", "behind the clock", "in the blue bag", "next to the bread")
FOODS = ("apples", "eggs", "pears", "lemons", "carrots", "onions")
WEATHER = ("sunny", "cloudy", "windy", "rainy", "foggy")
REGIONS = ("north", "south", "east", "west")
GOALS = ("the coast", "the mountains", "the city", "the lake", "the old town")


def draw_general(rng: random.Random, *, held_out: bool) -> str:
    """One to five sentences of one of the kinds, of one side of the split."""
    while True:
        text = rng.choice(KINDS_OF_TEXT)(rng, held_out)
        if is_held_out(text) == held_out:
            return text


def is_held_out(text: str) -> bool:
    """Whether a plain text is one that no training may see. A hash decides, so that no seed moves it."""
    return hashlib.sha256(text.encode()).digest()[0] % 10 < HELD_OUT_TENTHS


def _description(rng: random.Random, held_out: bool) -> str:
    first, second = (_product(rng, held_out) for _ in range(2))
    spot = rng.choice(SPOTS)
    text = f"There is {article(str(first))} {first} {spot}. Next to it is {article(str(second))} {second}."
    n = rng.randint(1, 11)
    things = rng.choice(("books", "cups", "letters", "stones"))
    return f"{text} On the table lie {NUMBERS[n - 1]} {things}." if rng.random() < 0.6 else text


def _story(rng: random.Random, held_out: bool) -> str:
    name, they, their = _person(rng)
    parts = (_beginning(rng, held_out), _middle(rng), _end(rng))
    return " ".join(rng.choice(part) for part in parts).format(
        name=name, They=they, they=they.lower(), their=their, kin=rng.choice(KIN), n=NUMBERS[rng.randint(1, 11)]
    )


def _beginning(rng: random.Random, held_out: bool) -> tuple[str, ...]:
    product = _product(rng, held_out)
    snack = rng.choice(("an apple", "a pear", "a lemon cake", "a cheese sandwich"))
    return (
        f"{{name}} walked to the market on {rng.choice(DAYS)}. "
        f"{{They}} bought {NUMBERS[rng.randint(1, 11)]} {rng.choice(FOODS)} and a loaf of bread.",
        f"On {rng.choice(DAYS)} {{name}} found {article(str(product))} {product} {rng.choice(SPOTS)}. "
        "{They} took it home.",
        f"{{name}} was waiting for the train to {rng.choice(GOALS)}. {{They}} read a book and ate {snack}.",
    )


def _middle(rng: random.Random) -> tuple[str, ...]:
    return (
        "On the way back it began to rain, so {they} ran to a bus stop.",
        "Then {they} met {their} {kin}, and they talked for {n} minutes.",
        f"Suddenly a {rng.choice(('dog', 'cat', 'bird'))} came and sat down next to {{name}}.",
    )


def _end(rng: random.Random) -> tuple[str, ...]:
    return (
        "In the evening {they} wrote a letter to {their} {kin}.",
        f"At {NUMBERS[rng.randint(4, 10)]} o'clock {{they}} went to bed.",
        "When {they} came home, the lights were already on.",
    )


def _dialogue(rng: random.Random, _: bool) -> str:
    asker, answerer = rng.choice(MEN), rng.choice(WOMEN)
    if rng.random() < 0.5:
        asker, answerer = answerer, asker
    thing = rng.choice(SMALL_THINGS)
    question, answer = rng.choice(
        (
            (f"Where is the {thing}?", f"It is {rng.choice(HIDING)}"),
            ("What time is it?", f"It is {rng.choice(NUMBERS)} o'clock"),
        )
    )
    thanks = rng.choice(("Thank you", "Thanks a lot", "Then we have to go"))
    return f'"{question}" asked {asker}. "{answer}," said {answerer}. "{thanks}," said {asker}.'


def _recipe(rng: random.Random, _: bool) -> str:
    minutes, n, food = NUMBERS[rng.randint(1, 11)], NUMBERS[rng.randint(1, 11)], rng.choice(FOODS)
    start = rng.choice(("Boil the water", "Wash your hands", "Heat the pan"))
    addition = rng.choice(("salt", "sugar", "oil", "butter"))
    return f"{start} first. Cut {n} {food} into small pieces. Add some {addition} and wait for {minutes} minutes."


def _forecast(rng: random.Random, _: bool) -> str:
    here, there = rng.sample(REGIONS, 2)
    now, then = rng.sample(WEATHER, 2)
    day = rng.randrange(7)
    return (
        f"On {DAYS[day]} it will be {now} in the {here} and {then} in the {there}. "
        f"On {DAYS[(day + 1) % 7]} it will be {rng.choice(WEATHER)} everywhere."
    )


def _timetable(rng: random.Random, _: bool) -> str:
    goal, other = rng.sample(GOALS, 2)
    start = rng.randint(0, 8)
    return (
        f"The train to {goal} leaves at {NUMBERS[start]} and arrives at {NUMBERS[start + rng.randint(1, 3)]}. "
        f"The bus to {other} leaves from platform {rng.choice(NUMBERS)}."
    )


def _letter(rng: random.Random, _: bool) -> str:
    to, sender = rng.choice(WOMEN + MEN), rng.choice(WOMEN + MEN)
    return (
        f"Dear {to}, thank you for the {rng.choice(SMALL_THINGS)}. I will visit you on {rng.choice(DAYS)} "
        f"with my {rng.choice(KIN)}. The weather here is {rng.choice(WEATHER)}. Yours, {sender}."
    )


def _product(rng: random.Random, held_out: bool) -> Subject:
    return rng.choice(_products(held_out))


@cache
def _products(held_out: bool) -> list[Subject]:
    return [subject for subject in split_subjects(held_out=held_out) if subject.kind == "product"]


def _person(rng: random.Random) -> tuple[str, str, str]:
    return (rng.choice(WOMEN), "She", "her") if rng.random() < 0.5 else (rng.choice(MEN), "He", "his")


KINDS_OF_TEXT: Sequence[Callable[[random.Random, bool], str]] = (
    counting,
    sums,
    facts,
    facts,
    _description,
    _story,
    _story,
    _dialogue,
    _recipe,
    _forecast,
    _timetable,
    _letter,
)
