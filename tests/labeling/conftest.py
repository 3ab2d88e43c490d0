"""A tiny model in the true file layout, a scorer that comes from outside, and stand-ins that cost nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffdpo.data.prompts import Prompt

SCORER = '''
import os, time
from pathlib import Path
import numpy as np
import torch

class Brightness:
    """The mean of all colour values. With STALL=<n>:<file> it writes the file and hangs in its n-th call."""
    name = "brightness"
    scale = "0..255"

    def __init__(self, model=None, device="cpu", dtype=None):
        self.settings = {"scorer": self.name, "model": model}
        self.calls = 0

    def score(self, prompts, images):
        self.calls += 1
        at, _, file = os.environ.get("STALL", "").partition(":")
        if at and self.calls == int(at):
            Path(file).touch()
            time.sleep(600)
        return torch.tensor([float(np.asarray(image).mean()) for image in images])
'''


@pytest.fixture(scope="session")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the Python path with an installed third-party scorer, `brightness`."""
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "brightness_scorer.py").write_text(SCORER)
    info = folder / "brightness_scorer-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brightness-scorer\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[diffdpo.scorers]\nbrightness = brightness_scorer:Brightness\n")
    return folder


class FlatImages:
    """Stands for a model: an image of one grey, a function of prompt and seed. Counts what it draws."""

    name = "flat"
    batch_size = 3
    apart = False

    def __init__(self, **settings: Any) -> None:
        self.settings = {"model": "flat", "steps": 2, **settings}
        self.batches: list[int] = []

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        self.batches.append(len(prompts))
        greys = [(seed + len(prompt)) % 251 for prompt, seed in zip(prompts, seeds, strict=True)]
        return [Image.new("RGB", (4, 4), (grey, grey, grey)) for grey in greys]


def brightness(name: str = "brightness", factor: float = 1.0) -> Any:
    """A scorer object: the mean colour value, times a factor."""

    def score(prompts: Sequence[str], images: Sequence[Image.Image]) -> torch.Tensor:
        return torch.tensor([factor * float(np.asarray(image).mean()) for image in images])

    return SimpleNamespace(name=name, scale="0..255", settings={"factor": factor}, score=score)


@pytest.fixture
def flat() -> type[FlatImages]:
    return FlatImages


@pytest.fixture
def judge() -> Any:
    return brightness


@pytest.fixture
def prompts() -> list[Prompt]:
    return [Prompt.of(text) for text in ("a cat", "a dog", "two birds", "a fish on a plate", "rain")]
