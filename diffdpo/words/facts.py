"""Plain texts that are true: counting, sums and small facts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = "January February March April May June July August September October November December"
CITIES = "Paris:France Rome:Italy Madrid:Spain Berlin:Germany London:England Vienna:Austria Tokyo:Japan"
OPPOSITES = "hot:cold big:small old:new fast:slow high:low wet:dry open:closed early:late full:empty"
MADE_OF = "bread:flour:is cheese:milk:is paper:wood:is glass:sand:is wine:grapes:is butter:cream:is bricks:clay:are"
SORTS = "hen:bird trout:fish oak:tree rose:flower apple:fruit poodle:dog violin:instrument eagle:bird"
SOUNDS = "dogs:bark cats:purr cows:moo birds:sing wolves:howl lions:roar ducks:quack bees:buzz"
COLOURS = "grass:green snow:white coal:black milk:white gold:yellow blood:red"
USES = {
    "kettle": "to boil water",
    "lamp": "to light a room",
    "umbrella": "to stay dry in the rain",
    "clock": "to tell the time",
    "camera": "to take pictures",
    "blanket": "to keep warm at night",
    "toaster": "to brown slices of bread",
    "backpack": "to carry books",
}


def counting(rng: random.Random, _: bool) -> str:
    first, last = sorted(rng.sample(range(len(NUMBERS)), 2))
    row = NUMBERS[first : last + 1]
    if rng.random() < 0.5:
        row = row[::-1]
    text = f"Count from {row[0]} to {row[-1]}: {', '.join(row)}."
    after = rng.randrange(len(NUMBERS) - 1)
    return f"{text} After {NUMBERS[after]} comes {NUMBERS[after + 1]}." if rng.random() < 0.5 else text


def sums(rng: random.Random, _: bool) -> str:
    return " ".join(_sum(rng) for _ in range(rng.randint(2, 4)))


def _sum(rng: random.Random) -> str:
    total = rng.randint(2, len(NUMBERS))
    part = rng.randint(1, total - 1)
    a, b, c = (NUMBERS[n - 1] for n in (part, total - part, total))
    return f"{a} plus {b} is {c}.".capitalize() if rng.random() < 0.5 else f"{c} minus {a} is {b}.".capitalize()


def facts(rng: random.Random, _: bool) -> str:
    return " ".join(fact(rng) for fact in rng.sample(_FACTS, rng.randint(2, 4)))


def _day(rng: random.Random) -> str:
    n = rng.randrange(7)
    return f"The day after {DAYS[n]} is {DAYS[(n + 1) % 7]}."


def _month(rng: random.Random) -> str:
    months, n = MONTHS.split(), rng.randrange(12)
    return f"The month before {months[n]} is {months[n - 1]}."


def _capital(rng: random.Random) -> str:
    city, country = _entry(rng, CITIES)
    return f"{city} is the capital of {country}."


def _opposite(rng: random.Random) -> str:
    pair = _entry(rng, OPPOSITES)
    rng.shuffle(pair)
    return f"The opposite of {pair[0]} is {pair[1]}."


def _material(rng: random.Random) -> str:
    product, material, verb = _entry(rng, MADE_OF)
    return f"{product.capitalize()} {verb} made of {material}."


def _sort(rng: random.Random) -> str:
    one, sort = _entry(rng, SORTS)
    return f"{article(one).capitalize()} {one} is {article(sort)} {sort}."


def _animal_sound(rng: random.Random) -> str:
    animals, sound = _entry(rng, SOUNDS)
    return f"{animals.capitalize()} {sound}."


def _hue(rng: random.Random) -> str:
    thing, colour = _entry(rng, COLOURS)
    return f"{thing.capitalize()} is {colour}."


def _use(rng: random.Random) -> str:
    thing = rng.choice(list(USES))
    return f"{article(thing).capitalize()} {thing} is used {USES[thing]}."


def _entry(rng: random.Random, table: str) -> list[str]:
    """One entry of a table, in its parts."""
    return rng.choice(table.split()).split(":")


def article(words: str) -> str:
    return "an" if words[0] in "aeiou" else "a"


_FACTS: Sequence[Callable[[random.Random], str]] = (
    _day,
    _month,
    _capital,
    _opposite,
    _material,
    _sort,
    _animal_sound,
    _hue,
    _use,
)
