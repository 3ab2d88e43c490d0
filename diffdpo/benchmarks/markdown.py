"""What was measured, as lines of Markdown for a model card: read from the folder that a benchmark command left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffdpo.benchmarks import words
from diffdpo.benchmarks.numbers import COMPARISON, REPORT
from diffdpo.benchmarks.results import SUMMARY, read_run
from diffdpo.benchmarks.statistics import Estimate, Interval
from diffdpo.errors import UserError
from diffdpo.runs import read_json


def evaluation(folder: Path) -> list[str]:
    """The measures in a folder of `diffdpo compare --out`, `diffdpo report` or `diffdpo bench`.

    Raises:
        UserError: it is none of them, or a damaged one.
    """
    try:
        if (folder / COMPARISON).is_file():
            return compared(read_json(folder / COMPARISON))
        if (folder / REPORT).is_file():
            return compared(read_json(folder / REPORT)["comparison"])
        if (folder / SUMMARY).is_file():
            return _measured(read_run(folder).summary)
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder}: its figures are not as diffdpo writes them ({error}); make them again") from None
    raise UserError(
        f"{folder}: no figures in it; give a folder of `diffdpo compare --out`, `diffdpo report` or `diffdpo bench`"
    )


def compared(found: Mapping[str, Any]) -> list[str]:
    """A comparison as JSON values (`tables.comparison_json`): its table, and what to know before believing it."""
    rows = []
    for measure in (*found["parts"].values(), *found["scores"].values()):
        rate = measure["group"] == "parts"
        form = words.percent if rate else words.number
        change, interval = words.difference(_estimate(measure["contrast"]["difference"]), rate=rate)
        note = " (chose the training pairs)" if measure["labeled"] else ""
        before, after = (form(measure["contrast"][side]["mean"]) for side in ("a", "b"))
        wins = words.percent(measure["contrast"]["wins"]["rate"]["mean"])
        rows.append([f"{measure['name']}{note}", before, after, change, interval, wins, measure["verdict"]])
    heads = ["", "before", "after", "change", "95% interval of the change", "win rate", "finding"]
    return [
        f"Before and after, on {found['prompts']} {found['title']} from the same seeds (suite `{found['suite']}`).",
        "",
        *table(heads, rows),
        *(line for warning in found["warnings"] for line in ("", f"> **Note.** {warning}")),
    ]


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown; a bar within a cell is escaped, or it would end the cell."""
    cells = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]


def _measured(summary: Mapping[str, Any]) -> list[str]:
    rows = []
    for group, form in (("parts", words.percent), ("scores", words.number)):
        for name, found in summary[group].items():
            rows.append([name, form(found["mean"]), f"{form(found['low'])} to {form(found['high'])}"])
    return [
        f"Images for {summary['prompts']} {summary['title']} (suite `{summary['suite']}`).",
        "",
        *table(["", "mean", "95% interval"], rows),
    ]


def _estimate(found: Mapping[str, Any]) -> Estimate:
    return Estimate(found["mean"], Interval(**found["interval"]), found["n"])
