"""The benchmark of HPS v2 (Wu et al. 2023, arXiv 2306.09341): 4 styles of 800 prompts, by its own arithmetic.

The publisher's files are `benchmark/<style>.json` of the dataset `zhwang/HPDv2`, lists of texts; image i of a style is
`<style>/{i:05d}.jpg`. Prompts are taken style by style in turn, so that the first N are of all styles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffdpo.benchmarks.registry import Case, Options, Suite, mixed
from diffdpo.benchmarks.results import Row
from diffdpo.benchmarks.suites import hps_table
from diffdpo.benchmarks.suites.sources import Source, locate
from diffdpo.data.prompts import read_prompts
from diffdpo.errors import UserError, unknown

KIND = "style"
SCORERS = ("hpsv2", "hpsv2.1")
HUB = "zhwang/HPDv2"


def load(options: Options) -> Suite:
    """The prompts of all styles, or of those asked for.

    Raises:
        UserError: an unknown style, one file for several styles, or a file that cannot be used.
    """
    styles = options.styles or hps_table.STYLES
    for style in styles:
        if style not in hps_table.STYLES:
            raise unknown("style", style, hps_table.STYLES)
    if options.data is not None and Path(options.data).is_file() and len(styles) > 1:
        raise UserError(f"--data {options.data}: one file has the prompts of one style; say which with --style")
    files = {style: locate(options.data, Source((f"{style}.json", f"{style}.txt"), hub=HUB)) for style in styles}
    cases = [
        Case(prompt.text, f"{style}/{place:05d}", {KIND: style})
        for style, path in files.items()
        for place, prompt in enumerate(read_prompts(path, keep_duplicates=True))
    ]
    return Suite(
        name="hpsv2",
        title="HPSv2 prompts",
        cases=mixed(cases, KIND),
        scorers=SCORERS,
        files=tuple(files.values()),
    )


def figures(rows: Sequence[Row], scorers: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The protocol's figures by scorer, and where they stand in the published table."""
    styles = [row.categories[KIND] for row in rows]
    found = {}
    for name, made_by in scorers.items():
        protocol = hps_table.protocol(styles, [row.scores[name] for row in rows], scale=100 if "hps" in name else 1)
        found[name] = {**protocol, **hps_table.standing(name, protocol, made_by["settings"], settings)}
    return found


def table(found: Mapping[str, Any]) -> str:
    """The figures as text."""
    return "\n\n".join(hps_table.as_text(name, figure) for name, figure in found.items())
