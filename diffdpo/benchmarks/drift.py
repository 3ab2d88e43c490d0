"""How far a model's images drift from those it drew before tuning, whatever they show. Neither direction is better;
but a scorer can be won by colours and edges alone, and a model that has learned one good picture is no better for it.

Single images are measured by `look`; here is what takes many: how diverse they are, and how far each one moved. Both
stand on embeddings of length 1 and on the cosine distance, 1 - cosine, 0 to 2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffdpo.benchmarks import look
from diffdpo.benchmarks.pairing import images_per_prompt, prompt_means
from diffdpo.benchmarks.results import BenchRun

Floats = NDArray[np.float64]
Encode = Callable[[Sequence[Path]], ArrayLike]
"""Image files -> embeddings [n, d] of any length but zero."""
Sides = tuple[Floats, Floats]
"""A measure before and after, [n] each over the same prompts."""

DIVERSITY = "diversity"
MEANING: Mapping[str, str] = {
    **look.MEANING,
    DIVERSITY: "mean distance between two images, 1 - cosine in an image encoder, 0 to 2",
}


def diversity(embeddings: ArrayLike) -> float:
    """Mean cosine distance over all pairs of different rows of `embeddings` [n, d]; n is at least 2."""
    return float(_mean_distances(_unit(embeddings)).mean())


def diversity_parts(embeddings: ArrayLike) -> Floats:
    """What each row of `embeddings` [n, d] adds to `diversity`: [n], with that as its mean.

    They are the jackknife's pseudo-values (Tukey 1958), n D - (n - 1) D without the row. An interval for a mean of
    distances cannot take distances for independent: each image is in n - 1 of them. Pseudo-values are, to the first
    order, and so the bootstrap of a mean holds for them (Efron and Tibshirani 1993, chapter 11).
    """
    mean_distances = _mean_distances(_unit(embeddings))
    n = len(mean_distances)
    if n == 2:  # one distance, which neither row is without
        return mean_distances
    return np.asarray((2 * (n - 1) * mean_distances - n * mean_distances.mean()) / (n - 2))


def diversity_within(embeddings: ArrayLike, several: int) -> Floats:
    """The diversity among the images of each prompt, [n / several]: rows of `embeddings` [n, d] come prompt by prompt,
    `several` of each, at least 2."""
    unit = _unit(embeddings)
    return np.array([_mean_distances(unit[i : i + several]).mean() for i in range(0, len(unit), several)])


def distances(a: ArrayLike, b: ArrayLike) -> Floats:
    """How far each image moved: the cosine distance of the rows of `a` and `b` [n, d], [n]; equal rows give 0."""
    left, right = _unit(a), _unit(b)
    # Half the squared distance is 1 - cosine, and exactly 0 for equal rows.
    return np.asarray(((left - right) ** 2).sum(axis=1) / 2)


def embeddings(runs: Sequence[BenchRun], encode: Encode) -> list[Floats]:
    """The embeddings of the images of each run, [n, d].

    Files of equal content are encoded once: equal runs then agree to the last bit, whatever batch an image falls in.
    """
    keys = [[_digest(run.image(row.index)) for row in run.rows] for run in runs]
    files = {key: run.image(index) for run, found in zip(runs, keys, strict=True) for index, key in enumerate(found)}
    rows = dict(zip(files, np.asarray(encode(list(files.values())), dtype=np.float64), strict=True))
    return [np.stack([rows[key] for key in found]) for found in keys]


def sides(a: BenchRun, b: BenchRun, encode: Encode | None) -> tuple[dict[str, Sides], Floats | None]:
    """Every measure of drift before and after, prompt by prompt, and how far the images moved.

    Args:
        encode: the image encoder; without one there is no diversity, and nothing is known of how far.
    """
    several = images_per_prompt(a)
    before, after = looks(a), looks(b)
    found = {name: (prompt_means(a, before[name]), prompt_means(b, after[name])) for name in look.MEANING}
    if encode is None:
        return found, None
    left, right = embeddings([a, b], encode)
    if several > 1:
        found[DIVERSITY] = (diversity_within(left, several), diversity_within(right, several))
    else:
        found[DIVERSITY] = (diversity_parts(left), diversity_parts(right))
    return found, prompt_means(a, distances(left, right))


def looks(run: BenchRun) -> dict[str, Floats]:
    """Each measure of `look` on every image, [n]; what a run of an older version has not is measured now."""
    from scorers.images import to_rgb
    from scorers.stream import open_image

    found = [
        row.look if look.MEANING.keys() <= row.look.keys() else look.look(to_rgb(open_image(run.image(row.index))))
        for row in run.rows
    ]
    return {name: np.array([one[name] for one in found]) for name in look.MEANING}


def _mean_distances(unit: Floats) -> Floats:
    """The mean distance of each row to all others, without an n x n table: the cosines of a row sum to that with the
    sum of all rows."""
    n = len(unit)
    if n < 2:
        raise ValueError(f"diversity needs at least 2 embeddings, not {n}")
    cosines = (unit * unit.sum(axis=0)).sum(axis=1) - (unit**2).sum(axis=1)
    return np.asarray(1 - cosines / (n - 1))


def _unit(embeddings: ArrayLike) -> Floats:
    array = np.asarray(embeddings, dtype=np.float64)
    if array.ndim != 2:
        raise ValueError(f"embeddings are [n, d], not {array.shape}")
    lengths = np.sqrt((array**2).sum(axis=1, keepdims=True))
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise ValueError("an embedding is zero or not finite, which has no direction")
    return np.asarray(array / lengths)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
