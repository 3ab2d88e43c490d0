"""Folders as Pick-a-Pic and HPDv2 publish them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from published_samples import picture, write_pickapic


@pytest.fixture
def pickapic(tmp_path: Path) -> Callable[..., Path]:
    """Writes `data/<split>-....parquet`, one file per list of rows, and returns the folder above `data`."""

    def make(*files: list[dict[str, Any]], split: str = "train", name: str = "pickapic") -> Path:
        for number, rows in enumerate(files):
            file = f"{split}-{number:05d}-of-{len(files):05d}-b66ac786bf6fb553.parquet"
            write_pickapic(tmp_path / name / "data" / file, rows)
        return tmp_path / name

    return make


@pytest.fixture
def hpdv2(tmp_path: Path) -> Callable[..., Path]:
    """Writes `<split>.json` and `<split>/0.jpg` to `<split>/5.jpg` and returns the folder."""

    def make(entries: list[Any], split: str = "train") -> Path:
        images = tmp_path / "HPDv2" / split
        images.mkdir(parents=True)
        for number in range(6):
            (images / f"{number}.jpg").write_bytes(picture(number))
        (tmp_path / "HPDv2" / f"{split}.json").write_text(json.dumps(entries))
        return tmp_path / "HPDv2"

    return make
