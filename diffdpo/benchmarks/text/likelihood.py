"""How likely a model finds given texts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import accumulate, pairwise

import torch

from diffdpo.data.text.batch import by_length, pad
from diffdpo.data.text.examples import windows
from diffdpo.data.text.packing import pack
from diffdpo.data.text.tokens import Encoder, Tokens
from diffdpo.errors import UserError
from diffdpo.models.text.causal_lm import CausalLM, completion_logps

LONGEST = 1024
"""Tokens of a piece of plain text, where the model does not take fewer."""

AT_ONCE = 32
"""Groups, such as pieces of plain text, in a batch: however long a text is, memory is that of so many pieces."""


class Likelihood:
    """Log-probabilities by one model; a prompt is computed once for all its answers where the model allows it."""

    def __init__(self, model: CausalLM, encoder: Encoder) -> None:
        self.model, self.encoder = model, encoder
        try:
            model.refuse_unpackable()
            self.packed = True
        except UserError:
            self.packed = False

    @torch.no_grad()
    def sums(self, groups: Sequence[Sequence[Tokens]], *, temperature: float = 1.0) -> list[list[float]]:
        """log p of the learnt tokens of each sequence.

        Args:
            groups: sequences that may have a prompt in common.
            temperature: divides the logits.

        Raises:
            UserError: a sequence is longer than the model was made for.
        """
        self._check([tokens for group in groups for tokens in group])
        found: dict[int, list[float]] = {}
        for places in by_length([max(len(tokens.ids) for tokens in group) for group in groups], AT_ONCE):
            found.update(zip(places, self._together([groups[place] for place in places], temperature), strict=True))
        return [found[place] for place in range(len(groups))]

    def _together(self, groups: Sequence[Sequence[Tokens]], temperature: float) -> list[list[float]]:
        """The same of groups in one batch."""
        sequences = [tokens for group in groups for tokens in group]
        ends = [0, *accumulate(map(len, groups))]
        filler = self.encoder.pad
        places = [range(first, end) for first, end in pairwise(ends)]
        batch = pack(sequences, places, filler) if self.packed else pad(sequences, filler)
        network = partial(self.model.network, temperature=temperature)
        found = completion_logps(network, batch.to(self.model.lm.device)).sums.tolist()
        return [[found[place] for place in group] for group in places]

    def texts(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """log p of each plain text, its end token included, and how many tokens that are. Long ones go in windows."""
        length = min(self.model.context or LONGEST, LONGEST)
        pieces = [list(windows(self.encoder.document(text), length)) for text in texts]
        # The windows of a text share no prompt: one group each.
        logps = iter(self.sums([[piece] for some in pieces for piece in some]))
        return [(sum(next(logps)[0] for _ in some), sum(piece.n_completion for piece in some)) for some in pieces]

    def _check(self, sequences: Sequence[Tokens]) -> None:
        longest, context = max(len(tokens.ids) for tokens in sequences), self.model.context
        if context is not None and longest > context:
            raise UserError(f"{self.model.path}: a prompt and its answer are {longest} tokens, more than its {context}")
