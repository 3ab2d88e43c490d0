"""What was measured, as lines of Markdown for a model card: read from the folder that a benchmark command left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffdpo.benchmarks import words
from diffdpo.benchmarks.report import JSON
from diffdpo.benchmarks.results import SUMMARY, read_run
from diffdpo.benchmarks.statistics import Estimate, Interval
from diffdpo.errors import UserError
from diffdpo.runs import read_json

COMPARISON = "comparison.json"
"""What `diffdpo compare --out` writes."""


def evaluation(folder: Path) -> list[str]:
    """The measures in a folder of `diffdpo compare --out`, `diffdpo report` or `diffdpo bench`.

    Raises:
        UserError: it is none of them, or a damaged one.
    """
    try:
        if (folder / COMPARISON).is_file():
            return _compared(read_json(folder / COMPARISON))
        if (folder / JSON).is_file():
            return _compared(read_json(folder / JSON)["comparison"])
        if (folder / SUMMARY).is_file():
            return _measured(read_run(folder).summary)
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder}: its figures are not as diffdpo writes them ({error}); make them again") from None
    raise UserError(
        f"{folder}: no figures in it; give a folder of `diffdpo compare --out`, `diffdpo report` or `diffdpo bench`"
    )


def _compared(found: Mapping[str, Any]) -> list[str]:
    rows = []
    for measure in (*found["parts"].values(), *found["scores"].values()):
        rate = measure["group"] == "parts"
        form = words.percent if rate else words.number
        change, interval = words.difference(_estimate(measure["contrast"]["difference"]), rate=rate)
        note = " (chose the training pairs)" if measure["labeled"] else ""
        before, after = (form(measure["contrast"][side]["mean"]) for side in ("a", "b"))
        rows.append(f"| {measure['name']}{note} | {before} | {after} | {change} | {interval} |")
    return [
        f"Before and after, on {found['prompts']} {found['title']} from the same seeds (suite `{found['suite']}`).",
        "",
        "| | before | after | change | 95% interval of the change |",
        "|---|---|---|---|---|",
        *rows,
    ]


def _measured(summary: Mapping[str, Any]) -> list[str]:
    rows = []
    for group, form in (("parts", words.percent), ("scores", words.number)):
        for name, found in summary[group].items():
            rows.append(f"| {name} | {form(found['mean'])} | {form(found['low'])} to {form(found['high'])} |")
    return [
        f"Images for {summary['prompts']} {summary['title']} (suite `{summary['suite']}`).",
        "",
        "| | mean | 95% interval |",
        "|---|---|---|",
        *rows,
    ]


def _estimate(found: Mapping[str, Any]) -> Estimate:
    return Estimate(found["mean"], Interval(**found["interval"]), found["n"])
