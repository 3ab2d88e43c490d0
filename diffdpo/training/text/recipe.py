"""What every text recipe shares: examples, batches of their answers, held-out parts, and the whole of a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffdpo.data.text.batch import TextBatch, pad
from diffdpo.data.text.examples import Example
from diffdpo.data.text.packing import PackedBatch, pack
from diffdpo.data.text.tokens import Tokens

HELD_OUT_BATCH = 16
"""Examples looked at together."""

Places = Sequence[tuple[int, int]]
"""(index, epoch) of each, as the loop deals them out."""


class TextRecipe(ABC):
    """A recipe of the training loop over tokenised examples.

    Args:
        examples: all of them.
        train_rows, held_out_rows: which are trained on and which are only looked at.
        filler: id that fills up a batch.
        packed: answers to one prompt share it, and prompts share a row, instead of being padded.
    """

    def __init__(
        self,
        network: nn.Module,
        examples: Sequence[Example],
        train_rows: Sequence[int],
        held_out_rows: Sequence[int],
        *,
        filler: int,
        packed: bool = False,
        device: str | torch.device = "cpu",
    ) -> None:
        self.network = network
        self.examples = examples
        self.train_rows = list(train_rows)
        # Those of one length together, which leaves little to fill up.
        self.held_out_rows = sorted(held_out_rows, key=self._longest)
        self.filler, self.packed = filler, packed
        self.device = torch.device(device)
        self._step: Places = ()

    @property
    def n_examples(self) -> int:
        return len(self.train_rows)

    @abstractmethod
    def loss(self, network: nn.Module, examples: Places) -> tuple[Tensor, dict[str, Tensor]]: ...

    @abstractmethod
    def evaluate(self) -> dict[str, float]: ...

    def announce(self, step: Places, coming: Places) -> None:
        """Take note of the whole step, over all processes and micro-steps: means are over all of it."""
        self._step = step

    def length(self, example: tuple[int, int]) -> int:
        """Tokens of an example's longest answer with its prompt; packed, where short ones fill up rows, 0 of all."""
        return 0 if self.packed else self._longest(self.train_rows[example[0]])

    def _longest(self, row: int) -> int:
        return max(len(answer.ids) for answer in self.examples[row].answers)

    def whole_step(self, examples: Places) -> list[int]:
        """Rows of the whole step that `examples` are part of; of a recipe that is told none, these alone."""
        return [self.train_rows[index] for index, _ in self._step or examples]

    def batch(self, rows: Sequence[int]) -> TextBatch | PackedBatch:
        """All answers of some examples: the first of each, then the second of each, and so on; A * B."""
        answers = [answer for place in zip(*(self.examples[r].answers for r in rows), strict=True) for answer in place]
        return self.laid_out(answers, [range(first, len(answers), len(rows)) for first in range(len(rows))])

    def laid_out(self, sequences: Sequence[Tokens], groups: Sequence[Sequence[int]]) -> TextBatch | PackedBatch:
        """Sequences side by side, packed or padded; `groups` as in `pack`."""
        batch = pack(sequences, groups, self.filler) if self.packed else pad(sequences, self.filler)
        return batch.to(self.device)

    def held_out_parts(self) -> list[list[int]]:
        rows = self.held_out_rows
        return [rows[start : start + HELD_OUT_BATCH] for start in range(0, len(rows), HELD_OUT_BATCH)]
