"""The image encoder that diversity is measured in: that of a scorer made of a CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffdpo.errors import UserError
from diffdpo.progress import progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from scorers.base import Scorer

_AT_ONCE = 64
"""Images held in memory at a time."""


class ImageEncoder:
    """The image encoder of `scorer`: files -> embeddings [n, d] of length 1, float32.

    Calling it raises UserError, naming a file that cannot be read, and ScorerError for a scorer without an encoder.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    @property
    def name(self) -> str:
        return self.scorer.name

    def __call__(self, files: Sequence[Path]) -> NDArray[np.float32]:
        import torch

        from scorers.embedding import embed

        parts = []
        with progress(f"embed by {self.name}", len(files)) as advance:
            for start in range(0, len(files), _AT_ONCE):
                part = files[start : start + _AT_ONCE]
                parts.append(embed(self.scorer, [_open(path) for path in part]))
                advance(len(part))
        return torch.cat(parts).numpy()


def _open(path: Path) -> Image:
    from scorers.errors import ScorerError
    from scorers.stream import open_image

    try:
        return open_image(path)
    except ScorerError as error:
        raise UserError(f"{path}: {error}") from None
