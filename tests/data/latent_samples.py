"""Small stores, and what stands for a model's encoders."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffdpo.data.latents import LatentCache
from diffdpo.data.triplets import Pair, TripletStore, write_pairs


def png(seed: int, size: tuple[int, int] = (8, 8)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def pair(number: int, caption: str = "a cat", size: tuple[int, int] = (8, 8)) -> Pair:
    images = png(2 * number, size), png(2 * number + 1, size)
    return Pair(caption, *images, 0.0, 1.0, f"pair-{number}", "p", "m", "m", 0, 1, "test", 0.25 + number)


class Encoder:
    """Stands for a VAE and a text encoder, and counts what it is asked."""

    def __init__(self) -> None:
        self.images = 0
        self.prompts: list[str] = []
        self.fail_at = 10**9

    def encode_images(self, images: list[Image.Image]) -> tuple[Tensor, Tensor]:
        self.images += len(images)
        if self.images > self.fail_at:
            raise KeyboardInterrupt
        pixels = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]).float()
        mean = torch.nn.functional.avg_pool2d(pixels, 2) / 127.5 - 1
        return mean, mean.abs() / 3

    def encode_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        self.prompts += prompts
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        return {"embeddings": torch.stack([lengths, lengths**2], 1)[:, None] / 7, "tokens": lengths[:, None]}


def store_of(folder: Path, pairs: Sequence[Pair]) -> TripletStore:
    folder.mkdir()
    write_pairs(folder, 0, pairs)
    return TripletStore.open(folder)


def opened(root: Path, store: TripletStore, using: Encoder, **options: Any) -> LatentCache:
    settings = {"vae": "test"} | options.pop("encoder", {})
    return LatentCache.open_or_build(
        root,
        store,
        encode_images=using.encode_images,
        encode_prompts=using.encode_prompts,
        encoder=settings,
        **options,
    )
