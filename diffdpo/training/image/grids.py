"""Grids of images drawn while training, from the same prompts and seeds each time: what the figures cannot tell.

`samples/step-00000100.png` and, beside it, `.json` with the prompts, the seeds and what was measured. A grid that is
there is not drawn again. The one of step 0, the base model's, is what the others are compared with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from PIL import Image

from diffdpo.data.png import encode_png
from diffdpo.runs import write_bytes, write_json

GAP = 2
"""Pixels between two images."""


@dataclass(frozen=True)
class Measured:
    """One number per image, by name."""

    scores: Mapping[str, Sequence[float]]
    """By scorers: higher is better."""
    look: Mapping[str, Sequence[float]]
    """Saturation, contrast and sharpness, of which less or more is no better or worse."""


Measure = Callable[[Sequence[str], Sequence[Image.Image]], Measured]
"""Prompts and an image for each."""

Draw = Callable[[], list[Image.Image]]
"""An image for each prompt, by the weights that are in the network now; see `models.live`."""


class Grids:
    """A run's grids, in the main process.

    Args:
        folder: is made when the first grid is.
        seeds: one for each prompt.
        made_with: all else that decides a grid's images and what is told of them, in JSON values.
    """

    def __init__(
        self,
        folder: Path,
        prompts: Sequence[str],
        seeds: Sequence[int],
        made_with: Mapping[str, Any],
        draw: Draw,
        measure: Measure,
    ) -> None:
        self.folder, self.prompts, self.seeds = folder, list(prompts), list(seeds)
        self.made_with, self.draw, self.measure = dict(made_with), draw, measure

    def figures(self, step: int) -> dict[str, float]:
        """What is logged of a step's grid, which is drawn if it is not there yet.

        Returns:
            `samples/<scorer>`: its mean over the grid. `drift/saturation` and so on: by what share of the base
            model's mean the grid's mean is above it; left out where that is 0.
        """
        grid = self._there(step) or self._made(step)
        figures = {f"samples/{name}": fmean(column) for name, column in _columns(grid, "scores").items()}
        base = self._there(0)
        if step and base:
            before = {name: fmean(column) for name, column in _columns(base, "look").items()}
            after = {name: fmean(column) for name, column in _columns(grid, "look").items()}
            figures |= {f"drift/{name}": after[name] / mean - 1 for name, mean in before.items() if mean}
        return figures

    def _there(self, step: int) -> dict[str, Any] | None:
        """A grid as its JSON tells it, if it is whole and of these prompts and settings."""
        place = self._place(step)
        try:
            grid = json.loads(place.with_suffix(".json").read_text(encoding="utf-8"))
            drawn = [(image["prompt"], image["seed"]) for image in grid["images"]]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        same = drawn == list(zip(self.prompts, self.seeds, strict=True)) and grid["made_with"] == self.made_with
        return grid if same and place.is_file() else None

    def _made(self, step: int) -> dict[str, Any]:
        images = self.draw()
        measured = self.measure(self.prompts, images)
        columns = columns_of(len(images))
        told = [
            {
                "prompt": prompt,
                "seed": seed,
                "row": place // columns,
                "column": place % columns,
                "scores": {name: float(column[place]) for name, column in measured.scores.items()},
                "look": {name: float(column[place]) for name, column in measured.look.items()},
            }
            for place, (prompt, seed) in enumerate(zip(self.prompts, self.seeds, strict=True))
        ]
        grid = {"step": step, "made_with": self.made_with, "images": told}
        self.folder.mkdir(exist_ok=True)
        for half in self.folder.glob("*.partial"):  # of a run that was killed
            half.unlink()
        # The JSON comes last: with it, the grid is whole.
        write_bytes(self._place(step), encode_png(side_by_side(images)))
        write_json(self._place(step).with_suffix(".json"), grid)
        return grid

    def _place(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.png"


def columns_of(count: int) -> int:
    """As nearly square as can be, rather wide than high."""
    return next(columns for columns in range(1, count + 1) if columns * columns >= count)


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Equally sized images in rows, on white."""
    columns = columns_of(len(images))
    rows = -(-len(images) // columns)
    width, height = images[0].size
    whole = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for place, image in enumerate(images):
        whole.paste(image.convert("RGB"), (place % columns * (width + GAP), place // columns * (height + GAP)))
    return whole


def _columns(grid: Mapping[str, Any], kind: str) -> dict[str, list[float]]:
    images = grid["images"]
    return {name: [image[kind][name] for image in images] for name in images[0][kind]}
