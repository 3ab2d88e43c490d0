"""What is measured on the images of a run, block by block. A finished block is kept, so that a run that is stopped
scores nothing twice.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from diffdpo.benchmarks.blocks import blocks
from diffdpo.benchmarks.look import look
from diffdpo.benchmarks.registry import Case, Suite
from diffdpo.errors import UserError
from diffdpo.progress import progress
from diffdpo.runs import read_json, write_json

if TYPE_CHECKING:
    from scorers.base import Scorer

KEPT = "scored"
"""The folder of finished blocks, below the run's; it is gone when the run is finished."""

_LOOKS = ""
"""Under this name, which no scorer has, the blocks of looks are kept."""

Paths = Mapping[int, Path]
"""Image number -> file, for a whole run or a part of one."""


class Judge:
    """Measures images. `folder` is the run's, `paths` its images, `cases` those of the whole suite."""

    def __init__(self, folder: Path, cases: Sequence[Case], paths: Paths, batch_size: int) -> None:
        self.folder, self.cases, self.paths, self.batch_size = folder, cases, paths, batch_size
        self.span = range(min(paths), max(paths) + 1)

    def scores(self, name: str, scorer: Scorer) -> list[float]:
        """One scorer's scores of all images."""

        def score(block: range) -> list[float]:
            found = scorer.score([self.cases[index].prompt for index in block], [self._open(index) for index in block])
            values = [float(score) for score in found]
            for index, value in zip(block, values, strict=True):
                if not math.isfinite(value):
                    raise UserError(f"{self.paths[index]}: scorer {name!r} gave {value}, which is no score")
            return values

        return self._by_block(f"score by {name}", name, score)

    def looks(self, suite: Suite) -> list[dict[str, Any]]:
        """Of every image: what the suite's check found (`verdict`), how it looks, and its size in pixels."""

        def see(block: range) -> list[dict[str, Any]]:
            return [self._seen(suite, index) for index in block]

        return self._by_block("check images" if suite.check else "look at images", _LOOKS, see)

    def _seen(self, suite: Suite, index: int) -> dict[str, Any]:
        image = self._open(index)
        verdict = None if suite.check is None else asdict(suite.check(image, self.cases[index]))
        return {"verdict": verdict, "look": look(image), "size": list(image.size)}

    def _open(self, index: int) -> Image.Image:
        from scorers.errors import ScorerError
        from scorers.images import to_rgb
        from scorers.stream import open_image

        try:
            return to_rgb(open_image(self.paths[index]))
        except ScorerError as error:
            raise UserError(f"{self.paths[index]}: {error}") from None

    def _by_block(self, label: str, name: str, measure: Callable[[range], list[Any]]) -> list[Any]:
        found: list[Any] = []
        with progress(label, len(self.span)) as advance:
            for block in blocks(self.span, self.batch_size):
                found += self._kept(name, block, measure)
                advance(len(block))
        return found

    def _kept(self, name: str, block: range, measure: Callable[[range], list[Any]]) -> list[Any]:
        # A scorer's name may hold any character, a file's may not.
        path = self.folder / KEPT / hashlib.sha256(name.encode()).hexdigest()[:16] / f"{block.start:05d}.json"
        if path.exists():
            found = read_json(path)
            if isinstance(found, list) and len(found) == len(block):
                return found
        found = measure(block)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, found)
        return found


def forget_blocks(folder: Path) -> None:
    """Remove the finished blocks of a run whose results are written."""
    shutil.rmtree(folder / KEPT, ignore_errors=True)
