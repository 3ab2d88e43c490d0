"""What `diffdpo train --dry-run` says of the disk."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffdpo.config import ImageConfig
    from diffdpo.data.triplets import TripletStore

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


def cache_disk(config: ImageConfig, store: TripletStore, size: tuple[int, int]) -> dict[str, Any]:
    """`cache_gb` (1e9 bytes) that the encoded pairs and captions of the whole store take, and `cache_free_gb` where
    they go. With buckets it is a little less. None where nothing is known of the model here.

    Args:
        size: height and width of the images trained on, in pixels.
    """
    from diffdpo.models.memory.architectures import architecture_of
    from diffdpo.models.memory.encoded import numbers_of_caption, numbers_of_image
    from diffdpo.training.image.data_keys import views_of
    from diffdpo.training.image.inputs import cache_root

    root = cache_root(config).absolute()
    there = next(place for place in (root, *root.parents) if place.exists())
    told = {"cache": str(root), "cache_gb": None, "cache_free_gb": shutil.disk_usage(there).free / 1e9}
    architecture = architecture_of(config.model.path)
    if architecture is None:
        return told
    images = 2 * len(store) * views_of(config.data) * numbers_of_image(architecture, size)
    captions = 1 + len(set(store.captions) - {""})  # the empty one is always there
    each = numbers_of_caption(architecture, config.model.path, config.model.max_sequence_length)
    return {**told, "cache_gb": BYTES[config.data.cache_precision] * (images + captions * each) / 1e9}


def show_disk(plan: dict[str, Any]) -> None:
    if plan["cache_gb"] is not None:
        amounts = f"about {spell(plan['cache_gb'])}, unless it is there; {spell(plan['cache_free_gb'])} are free"
        print(f"disk for latents and encoded captions: {amounts} ({plan['cache']})")


def spell(gb: float) -> str:
    """An amount of 1e9 bytes with its unit, as a reader would write it: 57 kB, 12 MB, 63.4 GB."""
    for unit, share in (("GB", 1.0), ("MB", 1e3)):
        if gb * share >= 1:
            return f"{gb * share:.3g} {unit}"
    return f"{gb * 1e6:.3g} kB"
