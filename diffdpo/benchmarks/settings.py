"""The settings of two runs beside each other, as a reader compares them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffdpo.benchmarks.results import BenchRun


@dataclass(frozen=True)
class Setting:
    """One setting of both runs; an empty text where a run has none."""

    key: str
    before: str
    after: str

    @property
    def differs(self) -> bool:
        return self.before != self.after


def side_by_side(a: BenchRun, b: BenchRun) -> list[Setting]:
    """All settings, what made each score, and the versions, of both runs."""
    before, after = _all(a), _all(b)
    return [Setting(key, before.get(key, ""), after.get(key, "")) for key in dict.fromkeys([*before, *after])]


def flat(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested settings as `section.key` -> text."""
    if isinstance(value, Mapping):
        found: dict[str, str] = {}
        for key, inner in value.items():
            found.update(flat(inner, f"{prefix}.{key}" if prefix else str(key)))
        return found
    return {prefix: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}


def _all(run: BenchRun) -> dict[str, str]:
    return {
        "folder": str(run.folder),
        **flat(run.settings),
        **flat(run.manifest["inputs"], "input"),
        **flat(run.summary.get("scorers", {}), "scorer"),
        **flat(run.manifest.get("versions", {}), "version"),
    }
