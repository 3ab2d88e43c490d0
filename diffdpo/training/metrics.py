"""metrics.jsonl: one JSON object per line, a step and its figures. It can be cut back to where a checkpoint was."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from diffdpo.errors import UserError


class MetricsFile:
    """Appends lines; `size` bytes are what a checkpoint remembers."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def synced_size(self) -> int:
        """The size, after making sure that the disk has all of it."""
        if self.path.exists():
            with open(self.path, "rb") as file:
                os.fsync(file.fileno())
        return self.size

    def write(self, step: int, figures: dict[str, float]) -> None:
        """A line of the figures that are finite: JSON has no others."""
        line = json.dumps({"step": step, **as_written(figures)}, allow_nan=False)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def cut(self, size: int) -> None:
        """Forget what was written after a checkpoint: it will be written again."""
        if self.size > size:
            os.truncate(self.path, size)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """All complete lines. A torn last line, of a run that is being written, is left out.

    Raises:
        UserError: a line before the last is not JSON.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows: list[dict[str, float]] = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise UserError(f"{path}: line {number} is not JSON; the file is damaged") from None
    return rows


def finite(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures less those that are infinite or no number."""
    return {key: value for key, value in figures.items() if math.isfinite(value)}


def as_written(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures as a line holds them."""
    return {key: _rounded(value) for key, value in finite(figures).items()}


SHOWN = {
    "loss": "loss {:.4f}",
    "gradient_weight": "gradient weight {:.2f}",
    "eval/accuracy": "held-out accuracy {:.1%}",
    "eval/reward": "held-out reward {:.2f}",
    "eval/kl": "KL {:.2f}",
    "pairs_per_second": "{:.3g} pairs/s",
}
"""Of a run's figures, what stands beside its progress."""


def note(figures: Mapping[str, float]) -> str:
    """The figures as the progress line has them."""
    # Before the first step policy and reference agree: no pair is right or wrong, which 0.0% would not say.
    untold = {"eval/accuracy"} if figures.get("eval/margin") == 0 else set()
    return "  ".join(form.format(figures[name]) for name, form in SHOWN.items() if name in figures.keys() - untold)


def _rounded(value: float) -> float:
    """Eight significant digits: more than float32 has, fewer than repr prints."""
    return float(f"{value:.8g}")
