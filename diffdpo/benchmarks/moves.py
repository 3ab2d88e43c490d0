"""Which prompts moved most between two runs."""

from __future__ import annotations

from dataclasses import dataclass

from diffdpo.benchmarks.results import BenchRun, Row

N_MOVED = 6
"""Prompts listed at either end."""


@dataclass(frozen=True)
class Move:
    """How far one prompt moved: the change in parts that hold, if there are any, then in a scorer's score."""

    index: int
    parts: int | None
    score: float | None

    @property
    def size(self) -> tuple[float, float]:
        return (self.parts or 0, self.score or 0.0)


def moves(a: BenchRun, b: BenchRun, scorer: str | None) -> tuple[tuple[Move, ...], tuple[Move, ...]]:
    """The prompts that gained most and those that lost most, the largest move first; of equal ones the first."""
    found = [_move(row_a, row_b, scorer) for row_a, row_b in zip(a.rows, b.rows, strict=True)]
    gained = sorted((move for move in found if move.size > (0, 0)), key=lambda move: move.size, reverse=True)
    lost = sorted((move for move in found if move.size < (0, 0)), key=lambda move: move.size)
    return tuple(gained[:N_MOVED]), tuple(lost[:N_MOVED])


def _move(a: Row, b: Row, scorer: str | None) -> Move:
    parts = None if a.parts is None or b.parts is None else sum(b.parts.values()) - sum(a.parts.values())
    return Move(a.index, parts, None if scorer is None else b.scores[scorer] - a.scores[scorer])
