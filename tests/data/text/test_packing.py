"""The layout of packed sequences; that their likelihoods are those of padded ones is tested with the model."""

from __future__ import annotations

import torch

from diffdpo.data.text.packing import pack
from diffdpo.data.text.tokens import Tokens

CHOSEN = Tokens((5, 6, 7, 8), (False, False, True, True))
REJECTED = Tokens((5, 6, 9), (False, False, True))
OTHER = Tokens((5, 4), (False, True))


def test_answers_share_their_prompt_and_see_nothing_of_each_other():
    batch = pack([CHOSEN, REJECTED], [[0, 1]], filler=0)
    assert batch.ids.tolist() == [[5, 6, 7, 8, 9]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 2]]
    seen = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]
    assert batch.mask[0].long().tolist() == seen
    assert batch.source.tolist() == [1, 2, 1]  # one state of the prompt tells the first tokens of both
    assert batch.targets.tolist() == [7, 8, 9]
    assert batch.owner.tolist() == [0, 0, 1]
    assert batch.last.tolist() == [3, 4]


def test_prompts_share_a_row_and_see_nothing_of_each_other():
    long = Tokens(tuple(range(10, 17)), (False, *[True] * 6))
    batch = pack([OTHER, long, CHOSEN], [[0], [1], [2]], filler=0)
    assert batch.ids.tolist() == [[10, 11, 12, 13, 14, 15, 16], [5, 6, 7, 8, 5, 4, 0]]
    assert batch.last.tolist() == [12, 6, 10]
    assert not batch.mask[1, 4:6, :4].any()
    assert batch.mask.any(2).all()  # no place, filler too, is without something to see


def test_prompts_that_merge_with_their_answers_share_what_they_have_in_common():
    merged = Tokens((5, 3, 1), (False, True, True))
    batch = pack([CHOSEN, merged], [[0, 1]], filler=0)
    assert batch.ids.tolist() == [[5, 6, 7, 8, 3, 1]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 1, 2]]
    assert torch.equal(batch.source, torch.tensor([1, 2, 0, 4]))
