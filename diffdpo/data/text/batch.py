"""Sequences side by side as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from diffdpo.data.text.tokens import Tokens


class TextBatch(NamedTuple):
    """B sequences, filled up to the longest, L tokens."""

    ids: Tensor
    """[B, L] int64."""
    mask: Tensor
    """[B, L] bool, True on real tokens. What is padding this says, not the id: it may be the end token's."""
    completion: Tensor
    """[B, L] bool, True on tokens that are learnt or judged."""

    def to(self, device: torch.device) -> TextBatch:
        return TextBatch(*(part.to(device, non_blocking=True) for part in self))


def pad(sequences: Sequence[Tokens], filler: int, side: Literal["left", "right"] = "right") -> TextBatch:
    """Fill sequences up to equal length; on the left for generation, where all must end at the same place."""
    length = max(len(tokens.ids) for tokens in sequences)
    batch = TextBatch(
        torch.full((len(sequences), length), filler),
        torch.zeros(len(sequences), length, dtype=torch.bool),
        torch.zeros(len(sequences), length, dtype=torch.bool),
    )
    for row, tokens in enumerate(sequences):
        n = len(tokens.ids)
        place = slice(0, n) if side == "right" else slice(length - n, length)
        batch.ids[row, place] = torch.tensor(tokens.ids)
        batch.mask[row, place] = True
        batch.completion[row, place] = torch.tensor(tokens.completion)
    return batch


def by_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """All places in parts of at most `size`, those of one length together: which leaves little to fill up."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [order[start : start + size] for start in range(0, len(order), size)]
