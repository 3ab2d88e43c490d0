"""Several scorers as one opinion, and how far they agree. Pure functions of stored scores; knows no scorer.

S scorers, n images. `scores` [S, n]: a row per scorer, in its own unit, higher is better. `prompts` [n]: what each
image was made for, in any values that hash. Only images of one prompt are compared: an easy prompt scores high
with every image. Inputs may be lists, numpy arrays or CPU tensors; results are numpy float64.

None of this is a scorer of its own: it needs all candidates of a prompt at once, and `score` may be given a part.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scorers.errors import ScorerError

Array = NDArray[np.float64]

_DECIMALS = 9
"""Combined values are rounded to these: scorers that cancel must tie, not win by a rounding error."""


def standardized(scores: ArrayLike, prompts: Sequence[Hashable]) -> Array:
    """[S, n] -> [S, n]: minus the mean, over the population standard deviation, within each prompt.

    All 0 where a scorer gives every image of a prompt the same score.
    """
    return _per_prompt(_standardized, _checked(scores, prompts), prompts)


def weighted(scores: ArrayLike, prompts: Sequence[Hashable], weights: Sequence[float] = ()) -> Array:
    """[S, n] -> [n]: the weighted mean over the scorers of their `standardized` scores, in standard deviations.

    Args:
        weights: one per scorer, 0 or more, only their ratios count; none = all equal.
    """
    checked = _checked(scores, prompts)
    return _mean(_per_prompt(_standardized, checked, prompts), weights)


def borda(scores: ArrayLike, prompts: Sequence[Hashable], weights: Sequence[float] = ()) -> Array:
    """[S, n] -> [n] in 0..1: the share of a prompt's other images that an image beats, a tie counting half.

    Averaged over the scorers, with `weights` as in `weighted`. The Borda count over its maximum, which orders
    images as their mean rank does; an image alone in its prompt has 0.5.
    """
    checked = _checked(scores, prompts)
    return _mean(_per_prompt(_beaten, checked, prompts), weights)


def dominance(scores: ArrayLike) -> NDArray[np.bool_]:
    """[S, ..., N] scores of N candidates -> [..., N, N]: whether the first is better, whatever the scorers' weights.

    That is Pareto dominance: at least as good by every scorer, and better by one.
    """
    values = np.asarray(scores, dtype=np.float64)
    ours, theirs = values[..., :, None], values[..., None, :]
    return np.asarray((ours >= theirs).all(axis=0) & (ours > theirs).any(axis=0))


def kendall_tau(scores: ArrayLike, prompts: Sequence[Hashable]) -> Array:
    """[S, n] -> [S, S]: Kendall's tau-b between every two scorers within a prompt, averaged over the prompts.

    -1 (reversed) to 1 (same order). A prompt in which either scorer sees no difference has none and is left out;
    NaN where that leaves nothing. Source: Kendall 1945, "The treatment of ties in ranking problems".
    """

    def tau(group: Array) -> Array:
        signs = _signs(group)
        seen = (signs != 0).sum(axis=1).astype(np.float64)
        with np.errstate(invalid="ignore"):
            return np.asarray(signs @ signs.T / np.sqrt(np.outer(seen, seen)))

    return _average(tau, _checked(scores, prompts), prompts)


def preference_agreement(scores: ArrayLike, prompts: Sequence[Hashable]) -> Array:
    """[S, n] -> [S, S]: in which share of a prompt's pairs of images two scorers prefer the same one.

    0..1, averaged over the prompts; a pair that either scorer holds equal counts half, so that a scorer which says
    nothing has 0.5. NaN where no prompt has two images.
    """

    def share(group: Array) -> Array:
        signs = _signs(group)
        with np.errstate(invalid="ignore"):
            return np.asarray((signs @ signs.T / np.float64(signs.shape[1]) + 1) / 2)

    return _average(share, _checked(scores, prompts), prompts)


def check_weights(weights: Sequence[float], scorers: int) -> None:
    """Refuse weights that mean nothing. None at all are fine: all scorers count the same.

    Raises:
        ScorerError: not one per scorer, below 0, not finite, or all 0.
    """
    if weights and len(weights) != scorers:
        raise ScorerError(f"{len(weights)} weights for {scorers} scorers: give one for each, in their order")
    for weight in weights:
        if not (np.isfinite(weight) and weight >= 0):
            raise ScorerError(f"weight {weight}: must be a number of at least 0")
    if weights and not any(weights):
        raise ScorerError("all weights are 0: nothing would be left to decide by")


def _standardized(group: Array) -> Array:
    centred = group - group.mean(axis=-1, keepdims=True)
    spread = group.std(axis=-1, keepdims=True)
    # Equal scores may have a deviation of rounding errors, and tiny differences one that underflows.
    constant = (np.ptp(group, axis=-1, keepdims=True) == 0) | (spread == 0)
    return np.where(constant, 0.0, centred / np.where(constant, 1.0, spread))


def _beaten(group: Array) -> Array:
    others = group.shape[-1] - 1
    if others == 0:
        return np.full_like(group, 0.5)
    wins = np.sign(group[:, :, None] - group[:, None, :]).sum(axis=-1)
    return np.asarray((wins / others + 1) / 2)


def _signs(group: Array) -> Array:
    """[S, k] -> [S, k (k - 1) / 2]: per pair of images 1, -1, or 0 for a tie."""
    first, second = np.triu_indices(group.shape[1], 1)
    return np.asarray(np.sign(group[:, first] - group[:, second]))


def _mean(values: Array, weights: Sequence[float]) -> Array:
    check_weights(weights, len(values))
    each = np.asarray(weights or [1.0] * len(values), dtype=np.float64)[:, None]
    return np.asarray(((each * values).sum(axis=0) / each.sum()).round(_DECIMALS))


def _per_prompt(function: Callable[[Array], Array], scores: Array, prompts: Sequence[Hashable]) -> Array:
    """`function` [S, k] -> [S, k] on the k images of each prompt, put back in place."""
    result = np.empty_like(scores)
    for index in _groups(prompts):
        result[:, index] = function(np.ascontiguousarray(scores[:, index]))
    return result


def _average(function: Callable[[Array], Array], scores: Array, prompts: Sequence[Hashable]) -> Array:
    """The mean over the prompts of `function` [S, k] -> [S, S], over those values that are numbers."""
    total = np.zeros((len(scores), len(scores)))
    count = np.zeros_like(total)
    for index in _groups(prompts):
        value = function(scores[:, index])
        total += np.where(np.isnan(value), 0.0, value)
        count += ~np.isnan(value)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / count)


def _groups(prompts: Sequence[Hashable]) -> list[list[int]]:
    """Positions of the images of each prompt, prompts in the order of their first image."""
    groups: dict[Hashable, list[int]] = {}
    plain = prompts.tolist() if hasattr(prompts, "tolist") else prompts  # a tensor's elements hash by identity
    for index, prompt in enumerate(plain):
        groups.setdefault(prompt, []).append(index)
    return list(groups.values())


def _checked(scores: ArrayLike, prompts: Sequence[Hashable]) -> Array:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or not len(values) or values.shape[1] != len(prompts):
        given = f"{list(values.shape)} and {len(prompts)}"
        raise ScorerError(f"scores and prompts must be [scorers, images] and [images], not {given}")
    if not np.isfinite(values).all():
        scorer, image = np.argwhere(~np.isfinite(values))[0]
        raise ScorerError(f"scorer {scorer}, image {image}: the score is {values[scorer, image]}, not a finite number")
    return values
