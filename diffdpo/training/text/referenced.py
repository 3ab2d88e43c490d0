"""What text recipes with a reference share."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from diffdpo.data.text.batch import TextBatch, by_length
from diffdpo.data.text.packing import PackedBatch
from diffdpo.models.text.causal_lm import completion_logps
from diffdpo.training.text.recipe import TextRecipe
from diffdpo.training.text.reference import Reference


class ReferencedTextRecipe(TextRecipe):
    """A `TextRecipe` that asks how likely the reference finds an answer.

    Args:
        reference: None where the loss has none.
    """

    def __init__(self, *args: Any, reference: Reference | None, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.reference = reference
        self._held_out_sums: dict[Hashable, Tensor] = {}

    @torch.no_grad()
    def compute_reference(self, rows: Sequence[int], batch_size: int) -> Tensor:
        """log pi of the answers of some examples by the network as it is now, [B, A]: what a cached table holds."""
        parts = by_length([self._longest(row) for row in rows], batch_size)
        sums = [completion_logps(self.network, self.batch([rows[place] for place in part])).sums for part in parts]
        table = torch.cat([of.reshape(-1, len(part)).T for of, part in zip(sums, parts, strict=True)])
        return table[torch.tensor(list(chain(*parts)), device=table.device).argsort()]

    def reference_sums(self, rows: Sequence[int], batch: TextBatch | PackedBatch) -> Tensor:
        """log pi_ref of the batch's answers, [A * B]; 0 where there is no reference."""
        if self.reference is None:
            return torch.zeros(sum(len(self.examples[row].answers) for row in rows), device=self.device)
        return self.reference.sums(rows, batch)

    def held_out_reference_sums(self, part: Hashable, rows: Sequence[int], batch: TextBatch | PackedBatch) -> Tensor:
        """The same of a held-out part, whatever it is called; asked for once."""
        if part not in self._held_out_sums:
            self._held_out_sums[part] = self.reference_sums(rows, batch)
        return self._held_out_sums[part]
