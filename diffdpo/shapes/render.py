"""Scenes to pixels: anti-aliased, with jitter in place, size and tone. Pure numpy, one image at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffdpo.shapes.scene import Scene, Thing

SIZE = 32
"""Images are SIZE x SIZE pixels."""

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "green": (40, 160, 64),
    "blue": (44, 84, 214),
    "yellow": (244, 208, 40),
    "purple": (148, 52, 180),
    "white": (244, 244, 244),
    "gray": (136, 136, 136),
    "black": (22, 22, 22),
}

RADIUS = (4.2, 5.4)
"""Smallest and largest size of a shape in pixels: a circle's radius; the others' by `AREA`."""

AREA = {"circle": np.pi, "square": np.pi, "triangle": 0.75 * np.pi}
"""Area of a shape of radius 1. The triangle is smaller, since its corners reach further."""

Pixels = NDArray[np.float32]
Place = tuple[float, float, float]
"""Centre x, centre y (pixels, y down) and radius."""

_ROWS, _COLUMNS = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) + 0.5


def render(scene: Scene, rng: np.random.Generator) -> Pixels:
    """Draw a scene. Returns [SIZE, SIZE, 3] float32 RGB in [0, 1]."""
    return paint(scene.things, layout(scene, rng), scene.background, rng)


def paint(things: tuple[Thing, ...], places: list[Place], background: str, rng: np.random.Generator) -> Pixels:
    """Draw things at given places; colours get a little random tone. Returns [SIZE, SIZE, 3] float32 in [0, 1]."""
    canvas = np.broadcast_to(_tone(background, rng), (SIZE, SIZE, 3)).astype(np.float32)
    for thing, (x, y, radius) in zip(things, places, strict=True):
        alpha = coverage(thing.shape, x, y, radius)[..., None]
        canvas = canvas * (1 - alpha) + _tone(thing.color, rng) * alpha
    return canvas


def layout(scene: Scene, rng: np.random.Generator) -> list[Place]:
    """Random places for the things of a scene that fulfil its relation and touch neither each other nor the edge."""
    radii = rng.uniform(*RADIUS, size=len(scene.things))
    if scene.relation is None:
        x, y = rng.uniform(10.5, SIZE - 10.5, size=2)
        return [(x, y, radii[0])]
    # `along` runs in the direction of the relation, `across` at right angles to it.
    near, far = rng.uniform(7.8, 8.8), rng.uniform(SIZE - 8.8, SIZE - 7.8)
    across = rng.uniform(11.5, SIZE - 11.5) + rng.uniform(-2.0, 2.0, size=2)
    along = (near, far) if scene.relation in ("left of", "above") else (far, near)
    if scene.relation in ("left of", "right of"):
        return [(along[i], across[i], radii[i]) for i in range(2)]
    return [(across[i], along[i], radii[i]) for i in range(2)]


def coverage(shape: str, x: float, y: float, radius: float) -> Pixels:
    """How much of each pixel a shape covers, [SIZE, SIZE] float32 in [0, 1].

    The area is `AREA[shape] * radius^2` and the centroid (x, y). Coverage is the signed distance to the outline,
    clipped to one pixel.
    """
    scale = radius * np.sqrt(AREA[shape])
    dx, dy = _COLUMNS - x, _ROWS - y
    if shape == "circle":
        inside = radius - np.hypot(dx, dy)
    elif shape == "square":
        inside = scale / 2 - np.maximum(np.abs(dx), np.abs(dy))
    else:
        # Equilateral, point up; a triangle of area A has the inradius sqrt(A / (3 sqrt 3)).
        inradius = scale / np.sqrt(3 * np.sqrt(3))
        slanted = 0.5 * np.sqrt(3) * np.abs(dx) - 0.5 * dy
        inside = inradius - np.maximum(dy, slanted)
    alpha: Pixels = np.clip(inside + 0.5, 0.0, 1.0).astype(np.float32)
    return alpha


def to_image(pixels: Pixels) -> Image.Image:
    """[H, W, 3] in [0, 1] to an 8-bit RGB image."""
    return Image.fromarray(np.clip(np.rint(pixels * 255), 0, 255).astype(np.uint8))


def _tone(color: str, rng: np.random.Generator) -> Pixels:
    jitter = rng.uniform(-9, 9) + rng.uniform(-5, 5, size=3)
    tone: Pixels = ((np.asarray(PALETTE[color]) + jitter) / 255).clip(0, 1).astype(np.float32)
    return tone
