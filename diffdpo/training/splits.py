"""Which examples are trained on and which are only looked at: a function of seed and caption."""

from __future__ import annotations

from collections.abc import Sequence

from diffdpo.objectives.draws import derived_seed


def held_out(captions: Sequence[str], share: float, seed: int) -> list[bool]:
    """For each example whether it is kept from training; all examples of one caption fall on one side.

    Args:
        share: about this share of the captions is held out.
    """
    held = {caption: derived_seed("held out", seed, caption) < share * 2**63 for caption in set(captions)}
    return [held[caption] for caption in captions]


def looked_at(rows: Sequence[int], names: Sequence[str], most: int, seed: int) -> list[int]:
    """At most `most` of the held-out rows, in their order; the others are seen by nobody.

    Args:
        names: of all rows; which are taken is a function of seed and name.
    """
    taken = sorted(rows, key=lambda row: derived_seed("looked at", seed, names[row]))[:most]
    return sorted(taken)
