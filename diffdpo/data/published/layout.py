"""How published data lies in a folder: its splits, and which import it asks for. Opens no file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from diffdpo.errors import UserError, unknown

SPLITS = ("train", "validation", "test", "validation_unique", "test_unique")
"""Those of Pick-a-Pic; HPDv2 has `train` and `test`."""

JUDGEMENTS = ("train.json", "test.json")
"""What HPDv2's folder holds beside its images."""


def split_of(path: Path) -> str:
    """The split in `train-00000-of-00645.parquet`, `train.parquet` or `train/0000.parquet`; "" where none is named."""
    named = (re.split(r"-\d", path.stem)[0], path.parent.name)
    return next((name for name in named if name in SPLITS), "")


def splits_of(paths: Sequence[Path]) -> list[str]:
    """The splits that some files are of."""
    return sorted({split for path in paths if (split := split_of(path))})


def choose_split(place: Path, split: str | None, there: Sequence[str]) -> str:
    """The split that was asked for; of several `train`, unless one was.

    Raises:
        UserError: it is not there, or there are several and none is `train`.
    """
    if split is not None and split not in there:
        raise unknown(f"split ({place})", split, filter(None, there))
    if split is None and len(there) > 1 and "train" not in there:
        raise UserError(f"{place}: holds {', '.join(there)}; choose one with --split")
    return split if split is not None else "train" if "train" in there else there[0]


def advice(place: Path) -> str:
    """What to do with a file or folder that is no store: the import it asks for, where it looks like one."""
    if place.is_file():
        kind = "pickapic" if place.suffix == ".parquet" else "hpdv2" if place.name in JUDGEMENTS else ""
    elif any((place / name).is_file() for name in JUDGEMENTS):
        kind = "hpdv2"
    else:
        kind = "pickapic" if any(place.glob("*/*.parquet")) else ""
    return f"; `diffdpo import {kind} {place} --out STORE` makes one of it" if kind else ""
