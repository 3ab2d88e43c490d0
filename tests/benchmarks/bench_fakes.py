"""A small suite, images and scorers that need no model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffdpo.benchmarks import registry
from diffdpo.benchmarks.registry import Suite, numbered
from diffdpo.benchmarks.results import BenchRun
from diffdpo.benchmarks.suite import run_suite
from diffdpo.shapes.render import render, to_image
from diffdpo.shapes.scene import OPPOSITE, Scene, parse_caption

N = 24
PROMPTS = ("a cat", "a dog\N{LINE SEPARATOR}and a <cat>", "a fish", "a bird", "a cow", "a horse", "a bee")


def plain_suite() -> Suite:
    return Suite(name="plain", title="animals", cases=numbered(PROMPTS), scorers=("bright",))


def draw_noise(prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
    """Depends on the place in the batch as well, as the last bit of a real image may."""
    images = []
    for place, seed in enumerate(seeds):
        noise = np.random.default_rng([seed, place]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        images.append(Image.fromarray(noise))
    return images


def draw_scenes(share: float) -> Callable[[Sequence[str], Sequence[int]], list[Image.Image]]:
    """Scenes as told in `share` of the prompts, and with the relation turned round in the others."""

    def draw(prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        images = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            rng = np.random.default_rng(seed)
            scene = parse_caption(prompt)
            if rng.random() > share and scene.second is not None and scene.relation is not None:
                scene = Scene(scene.first, scene.background, OPPOSITE[scene.relation], scene.second)
            images.append(to_image(render(scene, rng)))
        return images

    return draw


class Bright:
    """Scores the mean brightness; `bias` makes another scorer of it."""

    scale = "0..255"

    def __init__(self, name: str) -> None:
        self.name = name
        self.settings: dict[str, Any] = {"scorer": name}

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> torch.Tensor:
        channel = 0 if self.name == "reddish" else slice(None)
        return torch.tensor([float(np.asarray(image)[..., channel].mean()) for image in images])


def shapes_run(out: Path, share: float, *, limit: int = N, seed: int = 0) -> BenchRun:
    return run_suite(
        registry.find("shapes"),
        out,
        draw=draw_scenes(share),
        scorers=["bright", "reddish"],
        load_scorer=Bright,
        limit=limit,
        seed=seed,
        settings={"model": f"fake-{share}", "steps": 20, "guidance": 1.0},
    )


def edit_rows(folder: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    path = folder / "results.jsonl"
    rows = [json.loads(line) for line in path.read_text().split("\n") if line]
    change(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
