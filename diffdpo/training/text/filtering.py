"""What `data.filter` and `--filter` mean."""

from __future__ import annotations

from pathlib import Path

import torch

from diffdpo.data.text.moderation import Moderator, WordList
from diffdpo.models.text.moderation import TextClassifier


def open_moderator(source: str, device: str | torch.device = "cpu") -> Moderator:
    """A `.txt` of words, or a text classifier of transformers as `PATH` or `PATH=LABEL,LABEL`.

    Raises:
        UserError: neither can be opened.
    """
    path, _, labels = source.partition("=")
    if Path(path).suffix == ".txt":
        return WordList(path)
    return TextClassifier(path, [label.strip() for label in labels.split(",") if label.strip()], device=device)
