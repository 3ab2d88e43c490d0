"""PartiPrompts (Yu et al. 2022, arXiv 2206.10789): 1,632 prompts in 12 categories and 11 kinds of challenge."""

from __future__ import annotations

from diffdpo.benchmarks.registry import Case, Options, Suite, mixed
from diffdpo.benchmarks.suites.sources import Source, locate, read_cells

SOURCE = Source(("PartiPrompts.tsv",), hub="nateraw/parti-prompts")
KINDS = {"category": ("Category",), "challenge": ("Challenge",)}
SCORERS = ("pickscore", "hpsv2.1", "aesthetic", "clipscore")


def load(options: Options) -> Suite:
    """All prompts, in an order that keeps the mix of categories; an image is numbered by its place in the file.

    Raises:
        UserError: the file cannot be used.
    """
    path = locate(options.data, SOURCE)
    cases = [Case(prompt, f"{n:05d}", kinds) for n, (prompt, kinds) in enumerate(read_cells(path, KINDS))]
    ordered = mixed(cases, "category")
    return Suite(name="parti", title="PartiPrompts", cases=ordered, scorers=SCORERS, files=(path,))
