"""What the scorer tests share: images of every kind, a small configuration, the published HPS order."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

PROMPTS = ["a red circle", ".", "two GREEN squares, left of a star", "é 漢字 ☃", "long " * 60]

SIZE = 32
"""Image edge of the small models, pixels."""

OPEN_CLIP_CONFIG: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": SIZE, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def noise(width: int, height: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Random 8-bit values [H, W, channels], or [H, W] for 0 channels."""
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def hps_reference(image: Image.Image, size: int, antialias: bool) -> torch.Tensor:
    """The order of the published preprocessing, written on torchvision: fit, pad, normalise."""
    pixels = tv.to_tensor(image)
    height, width = pixels.shape[1:]
    scale = size / float(max(height, width))
    new = [max(round(height * scale), 1), max(round(width * scale), 1)]
    if scale != 1.0:
        pixels = tv.resize(pixels, new, InterpolationMode.BICUBIC, antialias=antialias)
    pad_h, pad_w = size - new[0], size - new[1]
    pixels = tv.pad(pixels, [pad_w // 2, pad_h // 2, pad_w - pad_w // 2, pad_h - pad_h // 2], fill=0)
    normalised: torch.Tensor = tv.normalize(pixels, MEAN, STD)
    return normalised


def _palette(array: np.ndarray) -> Image.Image:
    image = Image.fromarray(array).quantize(16)
    image.info["transparency"] = 3
    return image


def _rotated(array: np.ndarray) -> Image.Image:
    """A JPEG whose EXIF says that it must be turned by 90 degrees."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.fromarray(array).save(buffer, "JPEG", exif=exif)
    return Image.open(io.BytesIO(buffer.getvalue()))


KINDS: dict[str, Callable[[], Image.Image]] = {
    "landscape": lambda: Image.fromarray(noise(61, 40)),
    "portrait": lambda: Image.fromarray(noise(37, 90)),
    "exact": lambda: Image.fromarray(noise(SIZE, SIZE)),
    "exact-width": lambda: Image.fromarray(noise(SIZE, 13)),
    "small": lambda: Image.fromarray(noise(7, 5)),
    "one-pixel-wide": lambda: Image.fromarray(noise(1, 50)),
    "one-pixel-high": lambda: Image.fromarray(noise(80, 1)),
    "grey": lambda: Image.fromarray(noise(41, 33, 0)),
    "grey-alpha": lambda: Image.fromarray(noise(41, 33, 2), "LA"),
    "bilevel": lambda: Image.fromarray(noise(41, 33, 0)).convert("1"),
    "rgba": lambda: Image.fromarray(noise(41, 33, 4)),
    "palette": lambda: Image.fromarray(noise(41, 33)).quantize(16),
    "palette-transparent": lambda: _palette(noise(41, 33)),
    "grey-16": lambda: Image.fromarray(noise(41, 33, 0).astype(np.uint16) * 257),
    "grey-32": lambda: Image.fromarray(noise(41, 33, 0).astype(np.int32) * 257),
    "cmyk": lambda: Image.fromarray(noise(41, 33, 4), "CMYK"),
    "exif-rotated": lambda: _rotated(noise(41, 33)),
}
"""Every kind of image that people hand in, small."""


def pairs(count: int | None = None) -> tuple[list[str], list[Image.Image]]:
    """Prompts, with repeats, and fresh images of the first `count` kinds (None: all)."""
    images = [make() for make in KINDS.values()][:count]
    return [PROMPTS[index % len(PROMPTS)] for index in range(len(images))], images


def many(count: int) -> tuple[list[str], list[Image.Image]]:
    """`count` pairs of different images, of sizes that need a resize and of some that do not."""
    sizes = [(61, 40), (SIZE, SIZE), (37, 90), (7, 5)]
    images = [Image.fromarray(noise(*sizes[seed % 4], seed=seed)) for seed in range(count)]
    return [PROMPTS[index % len(PROMPTS)] for index in range(count)], images


def openai_pixels(image: Image.Image) -> torch.Tensor:
    """The `preprocess` that OpenAI's CLIP, CLIPScore and ImageReward share, by torchvision's classes: [3, S, S]."""
    steps = [
        transforms.Resize(SIZE, InterpolationMode.BICUBIC),
        transforms.CenterCrop(SIZE),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
    pixels: torch.Tensor = transforms.Compose(steps)(image)
    return pixels
