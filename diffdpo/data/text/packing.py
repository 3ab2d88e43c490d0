"""Sequences side by side without padding: answers to one prompt share it, and several prompts share a row.

The likelihood of an answer is what it is alone: a place sees its own prompt and its own answer only, and counts its
position from the prompt's beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffdpo.data.text.tokens import Tokens, common_prefix


class PackedBatch(NamedTuple):
    """N sequences in R rows of L places, T of whose tokens are learnt."""

    ids: Tensor
    """[R, L] int64."""
    mask: Tensor
    """[R, L, L] bool, whether place i sees place j."""
    positions: Tensor
    """[R, L] int64, of each token in its own sequence."""
    source: Tensor
    """[T] int64, place in the flattened rows whose state tells the token: the one before it in its sequence."""
    targets: Tensor
    """[T] int64, ids of the learnt tokens."""
    owner: Tensor
    """[T] int64, the sequence that a learnt token belongs to."""
    last: Tensor
    """[N] int64, place in the flattened rows of each sequence's last token."""

    def to(self, device: torch.device) -> PackedBatch:
        return PackedBatch(*(part.to(device, non_blocking=True) for part in self))


class _Tree(NamedTuple):
    """Some sequences that begin with the same `shared` tokens of a prompt."""

    members: list[int]
    shared: int
    size: int


def pack(sequences: Sequence[Tokens], groups: Sequence[Sequence[int]], filler: int) -> PackedBatch:
    """Lay out all sequences; no row is longer than the longest group.

    Args:
        groups: indices of the sequences that have a prompt in common; each sequence is in one group.
    """
    trees = [_tree(sequences, group) for group in groups]
    rows = _fitted(trees)
    length = max(tree.size for tree in trees)
    shape = (len(rows), length)
    ids, positions = torch.full(shape, filler), torch.zeros(shape, dtype=torch.int64)
    group, branch = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
    places: list[list[int]] = [[] for _ in sequences]
    for row, trees_of_row in enumerate(rows):
        start = 0
        for number, tree in enumerate(trees_of_row, 1):
            group[row, start : start + tree.size] = number
            end = start + tree.shared
            for count, member in enumerate(tree.members):
                first = start if count == 0 else end
                tokens = sequences[member].ids[0 if count == 0 else tree.shared :]
                ids[row, first : first + len(tokens)] = torch.tensor(tokens)
                offset = len(sequences[member].ids) - len(tokens)
                positions[row, first : first + len(tokens)] = torch.arange(offset, offset + len(tokens))
                own = start + tree.shared if count == 0 else first
                end = first + len(tokens)
                branch[row, own:end] = count + 1
                base = row * length
                places[member] = [base + start + i for i in range(tree.shared)] + [base + i for i in range(own, end)]
            start += tree.size
    return PackedBatch(ids, _visible(group, branch), positions, *_wanted(sequences, places))


def _tree(sequences: Sequence[Tokens], members: Sequence[int]) -> _Tree:
    """Only a prompt is shared: the first token of an answer already belongs to it alone."""
    prompts = [sequences[member].ids[: sequences[member].completion.index(True)] for member in members]
    shared = min(common_prefix(prompts[0], prompt) for prompt in prompts) if len(members) > 1 else 0
    size = shared + sum(len(sequences[member].ids) - shared for member in members)
    return _Tree(list(members), shared, size)


def _fitted(trees: Sequence[_Tree]) -> list[list[_Tree]]:
    """First fit, the largest first, into rows as long as the largest."""
    ordered = sorted(trees, key=lambda tree: -tree.size)
    room: list[int] = []
    rows: list[list[_Tree]] = []
    for tree in ordered:
        row = next((number for number, left in enumerate(room) if left >= tree.size), None)
        if row is None:
            room.append(ordered[0].size)
            rows.append([])
            row = len(rows) - 1
        rows[row].append(tree)
        room[row] -= tree.size
    return rows


def _visible(group: Tensor, branch: Tensor) -> Tensor:
    """A place sees those before it of its own group that belong to the prompt (branch 0) or to its own answer."""
    length = group.shape[1]
    before = torch.ones(length, length, dtype=torch.bool).tril()
    same = group[:, :, None] == group[:, None, :]
    own = (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
    return before & same & own


def _wanted(sequences: Sequence[Tokens], places: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    source, targets, owner = [], [], []
    for number, (tokens, own) in enumerate(zip(sequences, places, strict=True)):
        for t in range(1, len(tokens.ids)):
            if tokens.completion[t]:
                source.append(own[t - 1])
                targets.append(tokens.ids[t])
                owner.append(number)
    last = [own[-1] for own in places]
    return torch.tensor(source), torch.tensor(targets), torch.tensor(owner), torch.tensor(last)
