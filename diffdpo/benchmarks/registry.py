"""What a benchmark suite is, and which there are. A new suite is one short file and one line here.

Imports nothing heavy: the help of `diffdpo bench` is made from `SUITES`.
"""

from __future__ import annotations

import hashlib
import importlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from diffdpo.errors import UserError, unknown

if TYPE_CHECKING:
    from PIL import Image


IMAGES = "bench_images"


@dataclass(frozen=True)
class Entry:
    """A suite as the command line lists it."""

    module: str
    about: str
    takes: tuple[str, ...] = ()
    """The fields of `Options` that mean something to it."""
    command: str = IMAGES
    """The module of `diffdpo.commands` that measures it."""


_HERE = "diffdpo.benchmarks.suites"

SUITES: Mapping[str, Entry] = {
    "shapes": Entry(f"{_HERE}.shapes", "held-out captions of the built-in micro world, judged by an exact checker"),
    "hpsv2": Entry(f"{_HERE}.hpsv2", "HPSv2's 4 styles of 800 prompts, with its published table", ("data", "styles")),
    "pickapic": Entry(f"{_HERE}.pickapic", "500 prompts that people typed into Pick-a-Pic", ("data", "split")),
    "parti": Entry(f"{_HERE}.parti", "PartiPrompts: 1,632 prompts by category and by challenge", ("data",)),
    "drawbench": Entry(f"{_HERE}.drawbench", "DrawBench: 200 prompts, by category", ("data",)),
    "geneval": Entry(
        f"{_HERE}.geneval",
        "GenEval: 553 prompts whose objects, counts, colours and places a detector checks",
        ("data", "repeats", "detector", "colors", "device"),
    ),
    "prompts": Entry(f"{_HERE}.prompts", "the prompts of a file of your own", ("prompts",)),
    "text": Entry(
        "diffdpo.benchmarks.text.suite",
        "a language model: win rate against a baseline, KL, style",
        command="bench_text",
    ),
    "truthfulqa": Entry(
        "diffdpo.benchmarks.text.truthfulqa_run",
        "a language model: TruthfulQA's multiple choice",
        command="bench_truthfulqa",
    ),
}

MIN_PROMPTS = 2
"""Fewer have no interval."""


@dataclass(frozen=True)
class Options:
    """What a suite may be told. None, or nothing, is its own default."""

    data: str | None = None
    """The publisher's files: a folder, a file, or the name of a dataset on the hub."""
    prompts: str | None = None
    """A file of one's own prompts."""
    split: str | None = None
    styles: tuple[str, ...] = ()
    repeats: int | None = None
    """Images for each prompt."""
    detector: str | None = None
    """A hub name or folder of an object detector."""
    colors: str | None = None
    """A hub name or folder of the CLIP that names colours."""
    device: str = "cpu"


@dataclass(frozen=True)
class Case:
    """One image to be made and judged."""

    prompt: str
    name: str
    """Path of its image without the suffix, below a folder in the publisher's layout; the last part is a number."""
    categories: Mapping[str, str] = field(default_factory=dict)
    """Kind of category -> category, to see where an effect lies."""
    task: Any = None
    """What a check needs beside the prompt."""


@dataclass(frozen=True)
class Verdict:
    """What an exact check found. The part "exact" is the whole; `why` says in words what does not hold."""

    parts: Mapping[str, bool]
    why: str = ""


@dataclass(frozen=True)
class Suite:
    """A fixed list of prompts and how the images made for them are judged."""

    name: str
    title: str
    """What the images are of, as in "320 {title}"."""
    cases: tuple[Case, ...]
    scorers: tuple[str, ...]
    """Scorers used unless others are asked for."""
    default_prompts: int | None = None
    """How many of the prompts are used unless asked otherwise; None is all of them."""
    steps: int = 50
    guidance: float = 7.5
    repeats: int = 1
    """Images for each prompt: so many cases in a row are of one prompt."""
    check: Callable[[Image.Image, Case], Verdict] | None = None
    """An exact check."""
    prepare: Callable[[], object] | None = None
    """Opens what the check needs, so that what cannot be used stops a run before its images are drawn."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What decides the results beside the prompts, in JSON values."""
    files: tuple[Path, ...] = ()
    """Files that the prompts were read from, recorded by name and hash."""

    def take(self, limit: int | None) -> tuple[Case, ...]:
        """The cases of the first `limit` prompts, or of the default number.

        Raises:
            UserError: the suite has not so many, or they would be too few for an interval.
        """
        count = len(self.cases) // self.repeats
        if limit is None:
            limit = self.default_prompts or count
        elif not MIN_PROMPTS <= limit <= count:
            raise UserError(f"--limit {limit}: suite {self.name!r} takes {MIN_PROMPTS} to {count} prompts")
        return self.cases[: limit * self.repeats]

    def seed(self, suite_seed: int, index: int) -> int:
        """The seed of image `index`, 0..2^32-1: a function of these alone, so that every run repeats it."""
        digest = hashlib.sha256(f"{self.name}/{suite_seed}/{index}".encode()).digest()
        return int.from_bytes(digest[:4], "big")


def numbered(prompts: Sequence[str]) -> tuple[Case, ...]:
    """Cases of plain prompts: image i is called by its number, five digits."""
    return tuple(Case(prompt, f"{index:05d}") for index, prompt in enumerate(prompts))


def mixed(cases: Sequence[Case], kind: str) -> tuple[Case, ...]:
    """The cases in an order in which the first so many have the categories of `kind` in the proportions of all.

    Within a category the order stays.
    """
    total = Counter(case.categories[kind] for case in cases)
    seen: Counter[str] = Counter()
    places = []
    for case in cases:
        category = case.categories[kind]
        places.append((seen[category] + 0.5) / total[category])
        seen[category] += 1
    return tuple(cases[index] for index in sorted(range(len(cases)), key=places.__getitem__))


def find(name: str, options: Options | None = None) -> Suite:
    """The suite of that name.

    Raises:
        UserError: there is none, it does not take one of the options, its files cannot be used, or they have too few
            prompts for an interval.
    """
    options = options or Options()
    module = suite_module(name)
    for option in fields(Options):
        given = getattr(options, option.name)
        if given != option.default and option.name not in (*SUITES[name].takes, "device"):
            owners = [f"`bench {other}`" for other, entry in SUITES.items() if option.name in entry.takes]
            text = given if isinstance(given, (str, int)) else " ".join(given)
            flag = {"styles": "style", "repeats": "repeat"}.get(option.name, option.name)
            raise UserError(f"--{flag} {text}: goes with {' or '.join(owners)}, not with {name!r}")
    suite: Suite = module.load(options)
    count = len(suite.cases) // suite.repeats
    if count < MIN_PROMPTS:
        where = ", ".join(map(str, suite.files))
        raise UserError(f"{where}: {count} prompt{'s' * (count != 1)}; an interval takes at least {MIN_PROMPTS}")
    return suite


def suite_module(name: str) -> ModuleType:
    """Where a suite of images is written.

    Raises:
        UserError: there is no such suite.
    """
    of_images = [known for known, entry in SUITES.items() if entry.command == IMAGES]
    if name not in of_images:
        raise unknown("suite", name, of_images)
    return importlib.import_module(SUITES[name].module)
