"""How far several scorers agree on the candidates of a store, in numbers and in one line."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import ArrayLike

from scorers.combine import kendall_tau, preference_agreement


def agreement(names: Sequence[str], scores: ArrayLike, prompts: Sequence[str]) -> list[dict[str, Any]]:
    """[S, n] scores of the scorers `names` for images of `prompts` [n] -> a row for every two scorers.

    `kendall_tau_b` is None where no prompt has one; `pair_agreement` is in 0..1. See `scorers.combine`.
    """
    tau, share = kendall_tau(scores, prompts), preference_agreement(scores, prompts)
    return [
        {
            "scorers": [names[a], names[b]],
            "kendall_tau_b": None if math.isnan(tau[a, b]) else float(tau[a, b]),
            "pair_agreement": float(share[a, b]),
        }
        for a, b in itertools.combinations(range(len(names)), 2)
    ]


def in_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line for people."""
    return "agreement within prompts: " + "; ".join(_words(row) for row in rows)


def _words(row: Mapping[str, Any]) -> str:
    tau = row["kendall_tau_b"]
    order = "one of them sees no difference" if tau is None else f"Kendall tau-b {tau:.3f}"
    return f"{' and '.join(row['scorers'])}: {order}, same preference in {row['pair_agreement']:.1%} of pairs"
