"""A scorer that needs no model, and test sets on the disk in their published shapes, made of flat grey images."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from scorers import ScorerError


class Grey:
    """The mean colour value, divided: an image of grey 120 scores 1.2 with `unit` 100."""

    scale = "mean colour value / unit"

    def __init__(self, unit: float = 100, name: str = "grey", refuses: str = "nothing", widest: int = 10**9) -> None:
        self.name, self.unit, self.refuses, self.widest = name, unit, refuses, widest
        self.settings = {"scorer": name, "unit": unit}
        self.calls: list[int] = []

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> torch.Tensor:
        self.calls.append(len(images))
        if self.refuses in prompts:
            raise ScorerError("image 0: there is something about this prompt")
        if len(images) > self.widest:
            raise ScorerError("too many")
        return torch.tensor([float(np.asarray(image).mean()) / self.unit for image in images], dtype=torch.float64)


def grey(value: int, kind: str = "PNG", size: tuple[int, int] = (4, 4)) -> bytes:
    """An image file of one grey. PNG keeps it exactly, and JPEG does too for a flat image at full quality."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (value,) * 3).save(buffer, kind, **({"quality": 100} if kind == "JPEG" else {}))
    return buffer.getvalue()


Ranking = tuple[str, list[int], list[float]]
"""A prompt, the greys of its images, their human ranks."""


def write_hpdv2(folder: Path, rankings: Sequence[Ranking]) -> Path:
    (folder / "test").mkdir(parents=True)
    entries: list[dict[str, Any]] = []
    for number, (prompt, greys, ranks) in enumerate(rankings):
        names = [f"{number:03d}_{index}.jpg" for index in range(len(greys))]
        for name, value in zip(names, greys, strict=True):
            (folder / "test" / name).write_bytes(grey(value, "JPEG"))
        raw = [{"rank": ranks, "user_hash": "a"}]
        entries.append({"prompt": prompt, "image_path": names, "rank": ranks, "raw_annotations": raw})
    (folder / "test.json").write_text(json.dumps(entries))
    return folder


def write_imagereward(folder: Path, rankings: Sequence[Ranking]) -> Path:
    entries: list[dict[str, Any]] = []
    for number, (prompt, greys, ranks) in enumerate(rankings):
        names = [f"part-1/images/{number:04d}/{index}.webp" for index in range(len(greys))]
        for name, value in zip(names, greys, strict=True):
            path = folder / "test_images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            Image.new("RGB", (4, 4), (value,) * 3).save(buffer, "WEBP", lossless=True)
            path.write_bytes(buffer.getvalue())
        entries.append({"id": f"{number}", "prompt": prompt, "generations": names, "ranking": ranks})
    (folder / "test.json").write_text(json.dumps(entries))
    return folder


Choice = tuple[str, int, int, float | None]
"""A caption, the greys of both images, label_0 (None: nobody was asked)."""


def write_pickapic(file: Path, choices: Sequence[Choice], rows_per_group: int = 3) -> Path:
    """A Parquet file with the published columns that matter here, and some that do not."""
    rows = [
        {
            "are_different": True,
            "caption": caption,
            "has_label": label is not None,
            "jpg_0": grey(first, "JPEG"),
            "jpg_1": grey(second, "JPEG"),
            "label_0": 0.5 if label is None else label,
            "label_1": 0.5 if label is None else 1 - label,
            "model_0": "m",
            "num_example_per_prompt": 1,
        }
        for caption, first, second, label in choices
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=rows_per_group)
    return file
