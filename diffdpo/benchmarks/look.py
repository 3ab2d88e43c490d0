"""How images look, whatever they show: tuning on a scorer tends to drift these, and a score may just follow."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

JPEG_QUALITY = 90

MEANING: Mapping[str, str] = {
    "saturation": "mean over pixels of (max - min) / max of red, green and blue, 0 to 1",
    "contrast": "standard deviation of the brightness, 0 to 0.5",
    "sharpness": "mean absolute Laplacian of the brightness, 0 to 1",
    "jpeg_size": f"kilobytes as a JPEG of quality {JPEG_QUALITY}: texture and noise cost, flat areas do not",
}


def look(image: Image.Image) -> dict[str, float]:
    """What `MEANING` tells of an RGB image."""
    upright = image.convert("RGB")
    pixels = np.asarray(upright, dtype=np.float64) / 255
    brightness = pixels @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    return {
        "saturation": round(_saturation(pixels), 6),
        "contrast": round(float(brightness.std()), 6),
        "sharpness": round(_sharpness(brightness), 6),
        "jpeg_size": _jpeg_bytes(upright) / 1000,
    }


def _saturation(pixels: NDArray[np.float64]) -> float:
    high, low = pixels.max(axis=-1), pixels.min(axis=-1)
    return float(np.divide(high - low, high, out=np.zeros_like(high), where=high > 0).mean())


def _sharpness(brightness: NDArray[np.float64]) -> float:
    """The Laplacian is divided by 4, so that a pixel's distance from the mean of its four neighbours is meant."""
    padded = np.pad(brightness, 1, mode="edge")
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return float(np.abs(around / 4 - brightness).mean())


def _jpeg_bytes(image: Image.Image) -> int:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.tell()
