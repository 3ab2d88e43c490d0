"""What is trained in a benchmark: a model, random pairs, and the settings that both ways of training them share."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffdpo.config import DpoConfig, build
from diffdpo.data.framing import Framing
from diffdpo.data.latents import LatentCache
from diffdpo.data.triplets import Pair, TripletStore, write_pairs
from diffdpo.models.memory.footprint import HALVES
from diffdpo.shapes.damage import damage
from diffdpo.shapes.render import render, to_image
from diffdpo.shapes.scene import parse_caption, sample_captions
from diffdpo.training.order import Order
from speed.models import SIZES, TRAINED, open_model


@dataclass(frozen=True)
class Workload:
    """What is trained, on what, and how.

    Args:
    size: edge of the images in pixels; None is what the model was made for.
    pairs: per micro-step.
    stored: pairs in the store.
    lora_rank: 0 trains the whole network.
    update: take optimiser steps; without, gradients only grow, as between the micro-steps of a large batch.
    one_copy: the second network is the first one again, where memory is short. No weight may move then.
    """

    model: str = "tiny"
    size: int | None = None
    pairs: int = 1
    stored: int = 8
    lora_rank: int = 0
    precision: str = "fp32"
    device: str = "cpu"
    optimizer: str = "adamw"
    learning_rate: float = 1e-6
    beta: float = 5000.0
    update: bool = True
    one_copy: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.one_copy and self.update:
            raise ValueError("one_copy: the reference would move with the weights; leave update out")

    @property
    def pixels(self) -> int:
        return self.size or SIZES[self.model]

    def config(self, **training: Any) -> DpoConfig:
        """The run that ours does."""
        return build(
            DpoConfig,
            {
                "output": "none",
                "model": {"path": f"random/{self.model}", "reference": "adapter" if self.lora_rank else "copy"},
                "data": {"path": "none", "size": self.pixels},
                "training": {
                    "steps": 1_000_000,
                    "batch_size": self.pairs,
                    "learning_rate": self.learning_rate,
                    "optimizer": self.optimizer,
                    "precision": self.precision,
                    **training,
                },
                "loss": {"beta": self.beta},
                "lora": {"rank": self.lora_rank},
                "seed": self.seed,
            },
        )


class Bench:
    """A workload's model, store and cache; a context, after which the store is gone.

    Attributes:
        cache_seconds: what encoding the store took.
        order: which pairs a step sees, in both ways.
        images: per pair the chosen and the rejected one, [2, H, W, 3] uint8.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self._exit = ExitStack()
        self.folder = Path(self._exit.enter_context(tempfile.TemporaryDirectory()))
        edge = workload.pixels
        captions, self.images = scenes(workload) if workload.model == TRAINED else anything(workload)
        self.store = write_store(self.folder / "pairs", captions, self.images)
        self.model = open_model(
            workload.model,
            device=workload.device,
            seed=workload.seed,
            lora_rank=workload.lora_rank,
            lora_alpha=float(workload.lora_rank),
            frozen_dtype=HALVES.get(workload.precision, torch.float32) if workload.device == "cuda" else torch.float32,
        )
        clock = time.perf_counter if workload.device == "cuda" else time.process_time
        start = clock()
        self.cache = LatentCache.open_or_build(
            self.folder / "cache",
            self.store,
            encode_images=self.model.encode_images,
            encode_prompts=self.model.encode_prompts,
            encoder=self.model.encoder_identity(),
            framing=Framing(edge),
            batch_size=max(1, 2**18 // edge**2),
        )
        self.cache_seconds = clock() - start
        self.order = Order(workload.stored, workload.pairs, workload.seed)

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def weights(self) -> list[torch.Tensor]:
        """Copies of what training moves."""
        return [p.detach().clone() for p in self.model.network.parameters() if p.requires_grad]

    def restore(self, weights: Sequence[torch.Tensor]) -> None:
        trained = [p for p in self.model.network.parameters() if p.requires_grad]
        with torch.no_grad():
            for parameter, weight in zip(trained, weights, strict=True):
                parameter.copy_(weight)
                parameter.grad = None


def anything(workload: Workload) -> tuple[list[str], np.ndarray]:
    """Captions, and pixels at random: [n, 2, H, W, 3] uint8. What they show does not change the work."""
    rng, edge = np.random.default_rng(workload.seed), workload.pixels
    captions = [f"a red circle left of {number} blue squares" for number in range(workload.stored)]
    return captions, rng.integers(0, 256, (workload.stored, 2, edge, edge, 3), dtype=np.uint8)


def scenes(workload: Workload) -> tuple[list[str], np.ndarray]:
    """As `anything`, of the micro world: a right picture of each caption, and one that is damaged."""
    rng = np.random.default_rng(workload.seed)
    captions = sample_captions(workload.stored, seed=workload.seed, held_out=False)
    drawn = [[render(scene, rng), damage(scene, rng)] for scene in map(parse_caption, captions)]
    return captions, np.stack([[np.asarray(to_image(picture)) for picture in pair] for pair in drawn])


def write_store(folder: Path, captions: Sequence[str], images: np.ndarray) -> TripletStore:
    """Pairs of these images, [n, 2, H, W, 3] uint8."""
    folder.mkdir(parents=True)
    pairs = [_pair(number, caption, *pair) for number, (caption, pair) in enumerate(zip(captions, images, strict=True))]
    write_pairs(folder, 0, pairs)
    return TripletStore.open(folder)


def _pair(number: int, caption: str, chosen: np.ndarray, rejected: np.ndarray) -> Pair:
    return Pair(
        caption=caption,
        jpg_0=_png(chosen),
        jpg_1=_png(rejected),
        label_0=1.0,
        label_1=0.0,
        pair_id=f"pair-{number}",
        prompt_id=f"prompt-{number}",
        model_0="random",
        model_1="random",
        seed_0=2 * number,
        seed_1=2 * number + 1,
        labeler="none",
        margin=1.0,
    )


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
