"""Progress on stderr: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

LINE_EVERY_S = 15.0


class Advance(Protocol):
    def __call__(self, steps: int = 1, note: str = "") -> None: ...


def say(message: str) -> None:
    """One line on stderr."""
    print(message, file=sys.stderr, flush=True)


@contextmanager
def progress(label: str, total: int, done: int = 0, *, shown: bool = True) -> Iterator[Advance]:
    """Count towards `total`. Yields a function to call with the steps made and an optional short note.

    Args:
        shown: off for all but one of several processes that do the same work.
    """
    if not shown:
        yield lambda steps=1, note="": None
    elif sys.stderr.isatty():
        with _bar(label, total, done) as advance:
            yield advance
    else:
        yield _lines(label, total, done)


@contextmanager
def _bar(label: str, total: int, done: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total, completed=done, note="")

        def advance(steps: int = 1, note: str = "") -> None:
            if note:
                bar.update(task, advance=steps, note=note)
            else:
                bar.update(task, advance=steps)

        yield advance


def _lines(label: str, total: int, done: int) -> Advance:
    began, spoke, count = time.monotonic(), time.monotonic(), done

    def advance(steps: int = 1, note: str = "") -> None:
        nonlocal spoke, count
        count += steps
        now = time.monotonic()
        if count >= total or now - spoke >= LINE_EVERY_S:
            spoke = now
            left = (now - began) / max(1, count - done) * (total - count)
            say(f"{label}: {count}/{total}  {_spell(now - began)}, {_spell(left)} left  {note}".rstrip())

    return advance


def _spell(seconds: float) -> str:
    """A length of time, as short as a glance needs it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
