"""A suite of one's own prompts: no exact check, only scorers. What a model is compared on before and after tuning."""

from __future__ import annotations

from pathlib import Path

from diffdpo.benchmarks.registry import Options, Suite, numbered
from diffdpo.data.prompts import read_prompts
from diffdpo.errors import UserError

SCORERS = ("pickscore", "hpsv2.1")


def load(options: Options) -> Suite:
    """The prompts of a file, in its order.

    Raises:
        UserError: no file is named, or it cannot be used.
    """
    if options.prompts is None:
        raise UserError("bench prompts: name the file with --prompts FILE")
    path = Path(options.prompts)
    prompts = [prompt.text for prompt in read_prompts(path)]
    title = f"prompts of {path.name}"
    return Suite(name="prompts", title=title, cases=numbered(prompts), scorers=SCORERS, files=(path,))
