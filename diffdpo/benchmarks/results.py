"""The folder a benchmark run leaves: written whole, and checked row by row when it is read.

manifest.json   settings, versions, input hashes
images/         00000.png ..., or in the folders of the suite's layout
results.jsonl   one line for each prompt, in order (`Row`)
summary.json    mean and interval of every measure, and what made each score
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from diffdpo.benchmarks.blocks import Part, span_of
from diffdpo.errors import UserError
from diffdpo.runs import read_json, read_manifest, write_bytes, write_json

COMMAND = "bench"
IMAGES = "images"
RESULTS = "results.jsonl"
SUMMARY = "summary.json"


@dataclass(frozen=True)
class Row:
    """One prompt of a run."""

    index: int
    prompt: str
    seed: int | None
    """What the image was drawn from; None where the images were given."""
    image: str
    """Path of the image below the run's folder."""
    scores: dict[str, float]
    parts: dict[str, bool] | None = None
    """What the suite's exact check found; None for a suite without one."""
    look: dict[str, float] = field(default_factory=dict)
    """Saturation, contrast and sharpness: see `look`."""
    categories: dict[str, str] = field(default_factory=dict)
    """Kind of category -> category."""
    why: str = ""
    """What the exact check missed, in words."""
    size: list[int] | None = None
    """Width and height in pixels."""


_REQUIRED: Mapping[str, tuple[type, ...]] = {
    "index": (int,),
    "prompt": (str,),
    "seed": (int, type(None)),
    "image": (str,),
    "scores": (dict,),
}
_ABSENT: tuple[Any, ...] = (None, {}, "")
"""Values of the other fields that a row is written without."""


@dataclass(frozen=True)
class BenchRun:
    """A finished run as it was read."""

    folder: Path
    manifest: Mapping[str, Any]
    rows: tuple[Row, ...]
    summary: Mapping[str, Any]

    @property
    def settings(self) -> Mapping[str, Any]:
        settings: Mapping[str, Any] = self.manifest["settings"]
        return settings

    @property
    def suite(self) -> str:
        return str(self.settings["suite"])

    @property
    def prompts(self) -> list[str]:
        return [row.prompt for row in self.rows]

    @property
    def scorers(self) -> list[str]:
        return list(self.rows[0].scores)

    @property
    def parts(self) -> list[str]:
        return list(self.rows[0].parts or {})

    def image(self, index: int) -> Path:
        return self.folder / self.rows[index].image

    def values(self, group: str, name: str) -> list[Any]:
        """One measure for every prompt; `group` is "parts", "scores" or "look"."""
        return [getattr(row, group)[name] for row in self.rows]


def write_results(folder: Path, rows: Sequence[Row], summary: Mapping[str, Any]) -> None:
    """Write `results.jsonl` and `summary.json`, each whole or not at all."""
    lines = []
    for row in rows:
        record = {key: value for key, value in asdict(row).items() if key in _REQUIRED or value not in _ABSENT}
        lines.append(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
    write_bytes(folder / RESULTS, "".join(lines).encode())
    write_json(folder / SUMMARY, summary)


def read_run(folder: str | Path) -> BenchRun:
    """Read a finished run and check it: every row whole, every image there.

    Raises:
        UserError: naming the file and the row that is at fault.
    """
    run = read_part(folder)
    if "part" in run.settings:
        raise UserError(
            f"{folder}: part {run.settings['part']} of a run; put the parts together with `diffdpo bench --merge`"
        )
    return run


def read_part(folder: str | Path) -> BenchRun:
    """As `read_run`, for a run or a part of one, whose rows are some of the run's."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; a run is made by `diffdpo bench`")
    manifest = read_manifest(folder)
    if manifest["command"] != COMMAND:
        hint = "; it compares with its --baseline by itself" if manifest["command"] == "bench text" else ""
        raise UserError(f"{folder}: made by `diffdpo {manifest['command']}`, not by `diffdpo bench` of images{hint}")
    if not manifest["complete"]:
        raise UserError(f"{folder}: the run is not finished; give the same `diffdpo bench` command again")
    settings = manifest["settings"]
    part = Part.parse(settings["part"]) if "part" in settings else None
    span = span_of(part, int(settings["prompts"]), int(settings.get("batch_size", 1)))
    rows = _read_rows(folder / RESULTS)
    _check_rows(folder, rows, span)
    return BenchRun(folder, manifest, tuple(rows), read_json(folder / SUMMARY))


def _read_rows(path: Path) -> list[Row]:
    try:
        # Not splitlines(): a prompt may hold one of the other line ends of Unicode.
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not text; the file is damaged") from None
    return [_parse(line, f"{path}, row {number}") for number, line in enumerate(lines)]


def _parse(line: str, where: str) -> Row:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        raise UserError(f"{where}: torn, not whole JSON") from None
    if not isinstance(record, dict):
        raise UserError(f"{where}: not a JSON object")
    for key, kinds in _REQUIRED.items():
        if key not in record or not isinstance(record[key], kinds) or isinstance(record[key], bool):
            raise UserError(f"{where}: {key!r} is {record[key]!r}" if key in record else f"{where}: lacks {key!r}")
    row = Row(**{key: value for key, value in record.items() if key in Row.__dataclass_fields__})
    for name, value in {**row.scores, **_dict(row.look, "look", where)}.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise UserError(f"{where}: {name} is {value!r}, not a finite number")
    if any(not isinstance(category, str) for category in _dict(row.categories, "categories", where).values()):
        raise UserError(f"{where}: a category is not a text")
    for name, value in _dict(row.parts or {}, "parts", where).items():
        if not isinstance(value, bool):
            raise UserError(f"{where}: part {name} is {value!r}, not true or false")
    return row


def _dict(value: object, key: str, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: {key!r} is not an object")
    return value


def _check_rows(folder: Path, rows: Sequence[Row], span: range) -> None:
    path = folder / RESULTS
    for number, row in enumerate(rows):
        due = span.start + number
        if row.index != due:
            earlier = row.index in range(span.start, due)
            fault = "a duplicate of an earlier row" if earlier else f"where {due} is missing"
            raise UserError(f"{path}, row {number}: index {row.index}, {fault}")
        if not (folder / row.image).is_file():
            raise UserError(f"{path}, row {number}: its image {folder / row.image} is missing")
        for name in ("scores", "look", "parts"):
            if (getattr(row, name) or {}).keys() != (getattr(rows[0], name) or {}).keys():
                raise UserError(f"{path}, row {number}: other {name} than in row 0")
    if len(rows) != len(span):
        raise UserError(f"{path}: {len(rows)} rows where the run has {len(span)} prompts; row {len(rows)} is missing")
