"""DrawBench (Saharia et al. 2022, arXiv 2205.11487): 200 prompts in 11 categories.

The authors published a table (`Prompts`, `Category`); HPDv2 has the prompts as a bare list, without categories.
"""

from __future__ import annotations

from diffdpo.benchmarks.registry import Case, Options, Suite, mixed
from diffdpo.benchmarks.suites.sources import Source, locate, read_cells

_TABLES = ("*drawbench*.csv", "*drawbench*.tsv", "drawbench.json", "*drawbench*.parquet", "*drawbench*.txt")
SOURCE = Source((*_TABLES, "test-*.parquet"), hub="zhwang/HPDv2")
KINDS = {"category": ("Category", "category")}
SCORERS = ("pickscore", "hpsv2.1", "aesthetic", "clipscore")


def load(options: Options) -> Suite:
    """All prompts; with categories, in an order that keeps their mix. An image is numbered by its place in the file.

    Raises:
        UserError: the file cannot be used.
    """
    path = locate(options.data, SOURCE)
    cases = tuple(Case(prompt, f"{n:05d}", kinds) for n, (prompt, kinds) in enumerate(read_cells(path, KINDS)))
    if all(case.categories for case in cases):
        cases = mixed(cases, "category")
    return Suite(name="drawbench", title="DrawBench prompts", cases=cases, scorers=SCORERS, files=(path,))
