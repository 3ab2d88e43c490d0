"""What methods with a reference share: its errors, computed beside the policy's or taken from a table."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffdpo.models.protocol import Predict
from diffdpo.training.image.pairs import HELD_OUT_DRAWS, Examples, NoisedPairs, PairRecipe
from diffdpo.training.image.reference import ReferenceTable


class ReferencedRecipe(PairRecipe):
    """A `PairRecipe` whose `judge` is given the reference's errors too.

    Args:
        reference: None is the model's own, as it is now.
    """

    def __init__(self, *args: Any, reference: Predict | None = None, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._reference: Predict | None = reference or self.model.reference()
        self._table: ReferenceTable | None = None
        self._held_out_ref: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def compute_reference(self, examples: Examples) -> Tensor:
        """The reference's errors of some examples, [B, 2] float32: what a `ReferenceTable` holds."""
        found = torch.zeros(len(examples), 2, device=self.device)
        for places in self._alike([self.train_rows[index] for index, _ in examples]):
            some = [examples[place] for place in places]
            found[places] = torch.stack(self._reference_errors(self.noised(some)[1]), dim=1)
        return found

    @torch.no_grad()
    def compute_held_out_reference(self) -> Tensor:
        """The same of every held-out pair and draw, [m, 2]."""
        parts = [torch.stack(self._reference_errors(noised), dim=1) for noised in self._held_out_batches()]
        return torch.cat(parts).cpu() if parts else torch.zeros(0, 2)

    def use(self, table: ReferenceTable) -> None:
        """Take the reference's errors from a table from now on, and let the reference itself go."""
        self._table, self._reference = table, None
        sizes = [len(rows) for rows in self._held_out_parts()] * HELD_OUT_DRAWS
        parts = torch.split(table.held_out.to(self.device), sizes)
        self._held_out_ref = [(part[:, 0], part[:, 1]) for part in parts]

    @torch.no_grad()
    def _reference_errors(self, noised: NoisedPairs, examples: Examples | None = None) -> tuple[Tensor, Tensor]:
        if self._table is not None and examples is not None:
            ref_w, ref_l = self._table.at(examples)
            return ref_w.to(self.device, non_blocking=True), ref_l.to(self.device, non_blocking=True)
        assert self._reference is not None, "a table was taken, which has all examples and held-out pairs"
        return noised.errors(self._reference(*noised.inputs))

    def _ref_errors(self, noised: NoisedPairs, examples: Examples) -> tuple[Tensor, ...]:
        return self._reference_errors(noised, examples)

    def _held_out_ref_errors(self, number: int, noised: NoisedPairs) -> tuple[Tensor, ...]:
        if number == len(self._held_out_ref):
            self._held_out_ref.append(self._reference_errors(noised))
        return self._held_out_ref[number]
