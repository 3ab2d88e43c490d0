"""What a benchmark suite is, and which there are. A new suite is one short file and one line here."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from diffdpo.errors import UserError, unknown

if TYPE_CHECKING:
    from PIL import Image

SUITES: Mapping[str, str] = {
    "shapes": "diffdpo.benchmarks.shapes:suite",
}
"""name -> "module:function" that returns the `Suite`."""

MIN_PROMPTS = 2
"""Fewer have no interval."""


def no_categories(prompt: str) -> dict[str, str]:
    """For a suite whose prompts fall into no categories."""
    return {}


@dataclass(frozen=True)
class Suite:
    """A fixed list of prompts and how the images made for them are judged."""

    name: str
    title: str
    """What the prompts are, as in "320 {title}"."""
    prompts: tuple[str, ...]
    scorers: tuple[str, ...]
    """Scorers used unless others are asked for."""
    default_prompts: int | None = None
    """How many of the prompts are used unless asked otherwise; None is all of them."""
    steps: int = 50
    guidance: float = 7.5
    check: Callable[[Image.Image, str], Mapping[str, bool]] | None = None
    """An exact check: image and prompt -> part -> whether it holds; the part "exact" is the whole."""
    categories: Callable[[str], Mapping[str, str]] = no_categories
    """A prompt -> kind of category -> category, to see where an effect lies."""

    def take(self, limit: int | None) -> tuple[str, ...]:
        """The first `limit` prompts, or the default number.

        Raises:
            UserError: the suite has not so many, or they would be too few for an interval.
        """
        if limit is None:
            return self.prompts[: self.default_prompts]
        if not MIN_PROMPTS <= limit <= len(self.prompts):
            raise UserError(f"--limit {limit}: suite {self.name!r} takes {MIN_PROMPTS} to {len(self.prompts)} prompts")
        return self.prompts[:limit]

    def seed(self, suite_seed: int, index: int) -> int:
        """The seed of image `index`, 0..2^32-1: a function of these alone, so that every run repeats it."""
        digest = hashlib.sha256(f"{self.name}/{suite_seed}/{index}".encode()).digest()
        return int.from_bytes(digest[:4], "big")


def find(name: str) -> Suite:
    """The suite of that name.

    Raises:
        UserError: there is none.
    """
    if name not in SUITES:
        raise unknown("suite", name, SUITES)
    module, _, function = SUITES[name].partition(":")
    return cast("Suite", getattr(importlib.import_module(module), function)())
