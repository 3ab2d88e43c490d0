"""Published preference data to a triplet store, part by part.

A part is a pure function of its published rows and of the pair ids before it, and its file is there whole or not at
all. So an import that was killed, at any moment, goes on where it was and leaves the same bytes.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from diffdpo.data.parts import ROWS_PER_GROUP, Pair, part_path, read_column, read_note, write_pairs
from diffdpo.data.published.rows import UNLABELLED, Source, pair_of
from diffdpo.errors import UserError, unknown
from diffdpo.progress import Advance, progress, say
from diffdpo.runs import claimed, read_manifest, whole_file

LEFT_OUT = "left_out.jsonl"
"""Names every row that did not become a pair, and why."""

NAMED = 5
"""Unusable rows that the summary names itself."""

ON_ERROR = ("stop", "skip")


def import_pairs(source: Source, out: str | Path, on_error: str = "stop") -> dict[str, Any]:
    """Make the triplet store `out`, go on with it, or make again what it has lost.

    Args:
        on_error: a row that cannot be used stops the import ("stop"), or is left out and named ("skip"). It is no
            setting of the store: an import that stopped goes on with the other.

    Returns:
        Counts of rows, pairs, ties and rows left out, which the manifest holds too.

    Raises:
        UserError: `out` holds something else or was made of other data, a row cannot be used, no pair is left.
    """
    if on_error not in ON_ERROR:
        raise unknown("way to deal with errors", on_error, ON_ERROR)
    out = Path(out)
    with claimed(out, "import", source.settings, products=("part-*.parquet", LEFT_OUT)) as run:
        parts = [part_path(out, part) for part in range(len(source.sizes))]
        if run.state == "complete" and all(part.exists() for part in parts):
            results: dict[str, Any] = read_manifest(out)["results"]
            return results
        _make_parts(source, parts, skip=on_error == "skip")
        results = _summary(source.place, out / LEFT_OUT, parts)
        if run.state != "complete":
            run.finish(results)
    return results


def _make_parts(source: Source, parts: Sequence[Path], *, skip: bool) -> None:
    total = sum(source.sizes)
    done = sum(size for size, part in zip(source.sizes, parts, strict=True) if part.exists())
    if done:
        say(f"{parts[0].parent}: going on; {done} of {total} rows are done")
    ids: set[str] = set()
    workers = min(16, os.cpu_count() or 1)
    with progress("importing", total, done) as advance, ThreadPoolExecutor(workers) as pool:
        for number, part in enumerate(parts):
            if part.exists():
                ids.update(read_column(part, "pair_id"))
            else:
                _Part(source, number, skip, ids, pool, advance).write(part.parent)


@dataclass(frozen=True)
class _Part:
    """One part in the making."""

    source: Source
    number: int
    skip: bool
    ids: set[str]
    """Of all pairs before; grows."""
    pool: ThreadPoolExecutor
    advance: Advance
    counts: Counter[str] = field(default_factory=Counter)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """Rows that are no pairs, and why."""

    def write(self, folder: Path) -> None:
        def note() -> str:
            return json.dumps({**self.counts, "left_out": self.left_out}, ensure_ascii=False)

        write_pairs(folder, self.number, self._pairs(), note)

    def _pairs(self) -> Iterator[Pair]:
        rows = self.source.rows(self.number)
        while group := list(islice(rows, ROWS_PER_GROUP)):
            for row, found in zip(group, self.pool.map(pair_of, group), strict=True):
                self.counts["rows"] += 1
                if isinstance(found, Pair):
                    self.counts.update(pairs=1, ties=found.label_0 == found.label_1)
                    yield self._with_own_id(found)
                elif found == UNLABELLED or self.skip:
                    self.left_out.append((row.where, found))
                else:
                    how = "mend or remove it, or say --on-error skip to leave such rows out"
                    raise UserError(f"{self.source.place}: {row.where}: {found}; {how}")
            self.advance(len(group))

    def _with_own_id(self, pair: Pair) -> Pair:
        """An id that occurs again gets a number behind it: draws and caches go by the id."""
        own, times = pair.pair_id, 1
        while own in self.ids:
            times += 1
            own = f"{pair.pair_id}-{times}"
        self.ids.add(own)
        return pair if times == 1 else replace(pair, pair_id=own)


def _summary(place: Path, left_out: Path, parts: Sequence[Path]) -> dict[str, Any]:
    """Add up what the parts remember, and write the names of all rows left out, part after part."""
    counts = Counter(rows=0, pairs=0, ties=0, unlabelled=0, unusable=0)
    named: list[str] = []
    with whole_file(left_out) as file:
        for part in parts:
            note = json.loads(read_note(part) or "{}")
            for where, why in note.pop("left_out", ()):
                file.write((json.dumps({"row": where, "why": why}, ensure_ascii=False) + "\n").encode())
                counts["unlabelled" if why == UNLABELLED else "unusable"] += 1
                if why != UNLABELLED and len(named) < NAMED:
                    named.append(f"{where}: {why}")
            counts.update(note)
    if not counts["pairs"]:
        unfit = f"{counts['unlabelled']} without a label and {counts['unusable']} that cannot be used"
        raise UserError(f"{place}: no pair in it: of {counts['rows']} rows {unfit}")
    return {**counts, "unusable_rows": named}
