"""What the `data` section of a config means for a run: its pictures, its weights, what of it makes another run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffdpo.config import DataConfig
from diffdpo.data.framing import Framing, bucket_step
from diffdpo.data.triplets import TripletStore
from diffdpo.errors import UserError
from diffdpo.losses import margin_weights

FRAMING = ("buckets", "crop", "crops", "flip")
ENCODING = (*FRAMING, "cache_precision")
"""What decides the encoded pictures, beside `size`."""
LATER = ("held_out_pairs", "min_margin", "margin_weight", *ENCODING)
"""Keys that there were not from the beginning."""


def unused_keys(data: DataConfig) -> list[str]:
    """Those of `LATER` that change nothing as they are."""
    defaults = {name: DataConfig.__dataclass_fields__[name].default for name in LATER}
    same = [name for name in LATER if getattr(data, name) == defaults[name]]
    return list({*same, "crops"} if data.crop == "center" else same)


def encoding_settings(data: DataConfig) -> dict[str, Any]:
    """The keys of `ENCODING` that change something."""
    unused = unused_keys(data)
    return {name: getattr(data, name) for name in ENCODING if name not in unused}


def framing_of(data: DataConfig, multiple: int) -> Framing:
    """What is done to the images.

    Args:
        multiple: `ImageModel.side_multiple`.

    Raises:
        UserError: buckets of a size that this model does not take.
    """
    step = bucket_step(data.size, multiple) if data.size and data.buckets else None
    framing = Framing(data.size, step, data.flip, data.crops if data.crop == "random" else 0)
    if step and not framing.buckets:
        raise UserError(
            f"data.size: {data.size} is too small for buckets; this model's sides are multiples of {multiple}"
        )
    return framing


def views_of(data: DataConfig) -> int:
    """Ways in which every pair is encoded and kept."""
    return Framing(flip=data.flip, crops=data.crops if data.crop == "random" else 0).n_views


def pair_weights(store: TripletStore, rows: Sequence[int], data: DataConfig) -> Tensor | None:
    """Of every train row, as `data.margin_weight` says, [n] float32; None where all count alike.

    Raises:
        UserError: no pair has a margin to weigh by.
    """
    if data.margin_weight == "none":
        return None
    which = list(rows)
    try:
        return margin_weights(torch.from_numpy(store.margins[which]), torch.from_numpy(store.ties[which]))
    except ValueError as error:
        raise UserError(f"data.margin_weight: {data.path}: {error}; label with a scorer, or say none") from None
