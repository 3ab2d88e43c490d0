"""One shard of a store: its candidates, their images, and the files that it becomes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from diffdpo.data.png import encode_png
from diffdpo.data.prompts import Prompt
from diffdpo.data.triplets import Pair, Score, write_pairs, write_scores
from diffdpo.labeling.generate import ImageSource, image_seed
from diffdpo.labeling.pair import preferences
from diffdpo.labeling.score import score_images
from diffdpo.runs import write_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from diffdpo.labeling.stages import Labeling
    from scorers.base import Scorer


@dataclass(frozen=True)
class Candidate:
    """One image of a prompt."""

    prompt: Prompt
    number: int
    seed: int

    @property
    def id(self) -> str:
        return f"{self.prompt.id}-{self.number}"


def candidates_of(prompts: Sequence[Prompt], how: Labeling) -> list[Candidate]:
    """The images to draw, prompt by prompt."""
    return [
        Candidate(prompt, number, image_seed(how.seed, prompt.id, number))
        for prompt in prompts
        for number in range(how.candidates)
    ]


def batches(shards: Iterable[Sequence[Candidate]], source: ImageSource) -> Iterator[list[Image.Image]]:
    """The images of all shards, `count_batches` for each.

    A batch ends with its shard, so that what is in one never depends on where a run was killed.
    """
    for candidates in shards:
        for start in range(0, len(candidates), source.batch_size):
            batch = candidates[start : start + source.batch_size]
            yield source([one.prompt.text for one in batch], [one.seed for one in batch])


def count_batches(candidates: int, source: ImageSource) -> int:
    """Of a shard of so many candidates."""
    return -(-candidates // source.batch_size)


def write_shard(
    shard: int,
    candidates: Sequence[Candidate],
    images: Sequence[Image.Image],
    out: Path,
    judges: Sequence[Scorer],
    how: Labeling,
    model: str,
) -> None:
    """Score, pair and write the images of one shard, drawn by `model`."""
    texts = [candidate.prompt.text for candidate in candidates]
    scores = score_images(judges, texts, images)
    png = cache(lambda index: encode_png(images[index]))
    if how.keep_images:
        (out / "images").mkdir(exist_ok=True)
        for index, candidate in enumerate(candidates):
            write_bytes(out / "images" / f"{candidate.id}.png", png(index))
    deciding = judges[:1] if how.combine == "first" else judges
    labeler = "+".join(judge.name for judge in deciding)
    write_pairs(out, shard, _pairs(candidates, png, scores, how, model, labeler))
    write_scores(out, shard, _score_rows(candidates, judges, scores))


def is_done(out: Path, shard: int) -> bool:
    """Whether both files of a shard are there; its scores are written last."""
    return all((out / f"{kind}-{shard:05d}.parquet").exists() for kind in ("part", "scores"))


def _pairs(
    candidates: Sequence[Candidate],
    png: Callable[[int], bytes],
    scores: NDArray[np.float64],
    how: Labeling,
    model: str,
    labeler: str,
) -> list[Pair]:
    """The candidate with the lower number is always the first: which side wins is chance."""
    per_prompt = scores.reshape(len(scores), -1, how.candidates)
    pairs = []
    for preference in preferences(per_prompt, how.pairs, how.min_margin, how.combine, how.weights):
        first, second = (preference.prompt * how.candidates + n for n in (preference.first, preference.second))
        prompt = candidates[first].prompt
        label_0, label_1 = preference.labels
        pairs.append(
            Pair(
                caption=prompt.text,
                jpg_0=png(first),
                jpg_1=png(second),
                label_0=label_0,
                label_1=label_1,
                pair_id=f"{prompt.id}-{preference.first}-{preference.second}",
                prompt_id=prompt.id,
                model_0=model,
                model_1=model,
                seed_0=candidates[first].seed,
                seed_1=candidates[second].seed,
                labeler=labeler,
                margin=abs(preference.margin),
            )
        )
    return pairs


def _score_rows(candidates: Sequence[Candidate], judges: Sequence[Scorer], scores: NDArray[np.float64]) -> list[Score]:
    return [
        Score(candidate.id, judge.name, float(score), candidate.prompt.text, candidate.seed)
        for judge, row in zip(judges, scores, strict=True)
        for candidate, score in zip(candidates, row, strict=True)
    ]
