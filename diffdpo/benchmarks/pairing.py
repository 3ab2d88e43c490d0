"""Whether two runs may be held against each other, and what a reader must know before believing the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffdpo.benchmarks.results import BenchRun, Row
from diffdpo.errors import UserError, unknown


def images_per_prompt(run: BenchRun) -> int:
    """How many images in a row are of one prompt."""
    return int(run.settings.get("images_per_prompt", 1))


def prompt_rows(run: BenchRun) -> tuple[Row, ...]:
    """The first row of each prompt."""
    return run.rows[:: images_per_prompt(run)]


def per_prompt(run: BenchRun, group: str, name: str) -> NDArray[Any]:
    """One measure for each prompt, [n]: the mean over its images, which resemble each other and are no sample of n."""
    return prompt_means(run, run.values(group, name))


def prompt_means(run: BenchRun, values: ArrayLike) -> NDArray[Any]:
    """Values of images -> of prompts. Booleans stay what they are where the images of each prompt agree: a rate of
    exactly 0 or 1 needs an interval of its own (`statistics.mean_estimate`)."""
    array, several = np.asarray(values), images_per_prompt(run)
    by_prompt = array.reshape(-1, several)
    if array.dtype == np.bool_ and (by_prompt == by_prompt[:, :1]).all():
        return by_prompt[:, 0]
    return array if several == 1 else by_prompt.mean(axis=1)


def check_same(a: BenchRun, b: BenchRun) -> None:
    """Raises UserError, saying what differs, unless both runs have the same suite, prompts and seeds."""
    both = f"{a.folder} and {b.folder}"
    if a.suite != b.suite:
        raise UserError(f"{both}: of different suites, {a.suite!r} and {b.suite!r}")
    if images_per_prompt(a) != images_per_prompt(b):
        raise UserError(f"{both}: {images_per_prompt(a)} and {images_per_prompt(b)} images for each prompt")
    if len(a.rows) != len(b.rows):
        raise UserError(f"{both}: {len(a.rows)} and {len(b.rows)} prompts; make both with the same --limit")
    for row_a, row_b in zip(a.rows, b.rows, strict=True):
        if row_a.prompt != row_b.prompt:
            raise UserError(f"{both}: prompt {row_a.index} differs, {row_a.prompt!r} and {row_b.prompt!r}")
        if None not in (row_a.seed, row_b.seed) and row_a.seed != row_b.seed:
            raise UserError(f"{both}: the seed of prompt {row_a.index} differs; make both with the same --seed")


def check_labelers(labeled_by: Sequence[str], a: BenchRun, b: BenchRun) -> None:
    """Raises UserError for a name that is no scorer: neither an installed one nor one of the runs."""
    import scorers

    known = {*a.scorers, *b.scorers, *scorers.names()}
    for name in labeled_by:
        if name not in known:
            raise unknown("scorer", name, known)


def warnings(a: BenchRun, b: BenchRun, labeled_by: Sequence[str]) -> list[str]:
    """Plain sentences, none where all is well."""
    found = []
    for name in labeled_by:
        if name in a.scorers:
            found.append(
                f"{name} chose the training pairs: its gain shows that training worked, not that images got better; "
                "judge by the other measures."
            )
    for name in sorted(set(a.scorers) ^ set(b.scorers)):
        found.append(f"{name} scored only one of the two runs and is left out.")
    for name in a.scorers:
        if name in b.scorers and a.summary["scorers"].get(name) != b.summary["scorers"].get(name):
            found.append(f"{name} ran with other settings in the two runs: its scores may not be comparable.")
    if any(row.seed is None for run in (a, b) for row in run.rows[:1]):
        found.append("Images were given, not drawn here: whether both sides began from the same noise is not known.")
    for key in ("steps", "guidance"):
        if a.settings.get(key) != b.settings.get(key):
            found.append(f"The runs were drawn with other {key}: {a.settings.get(key)} and {b.settings.get(key)}.")
    return found
