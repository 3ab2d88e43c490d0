"""Prompts to a triplet store, shard by shard: generate, score, pair, write.

A shard is a pure function of its prompts and the settings; its scores file is written last and says that it
is done. So a run that was killed, at any moment, goes on where it was and leaves the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from diffdpo.data.prompts import Prompt
from diffdpo.data.triplets import TripletStore, read_scores
from diffdpo.errors import UserError, unknown
from diffdpo.labeling.agreement import agreement
from diffdpo.labeling.generate import ImageSource, prompts_hash
from diffdpo.labeling.overlap import ahead
from diffdpo.labeling.pair import COMBINATIONS, STRATEGIES, check_combination
from diffdpo.labeling.shards import batches, candidates_of, count_batches, is_done, write_shard
from diffdpo.progress import progress, say
from diffdpo.runs import claimed

if TYPE_CHECKING:
    from scorers.base import Scorer


PRODUCTS = ("part-*.parquet", "scores-*.parquet", "images/*.png")


@dataclass(frozen=True)
class Labeling:
    """How a prompt becomes pairs."""

    candidates: int = 4
    """Images per prompt."""
    seed: int = 0
    pairs: str = "best-worst"
    """One of `pair.STRATEGIES`."""
    min_margin: float = 0.0
    """Pairs closer than this are left out; see `pair.combine` for the unit."""
    shard_size: int = 64
    """Prompts per shard: what is in memory at once, and the next one with it where `ImageSource.apart`;
    what a killed run loses at most, likewise."""
    keep_images: bool = False
    """Keep every candidate as a PNG below `images/`, not only those of the pairs."""
    combine: str = "weighted"
    """How several scorers decide together, one of `pair.COMBINATIONS`."""
    weights: tuple[float, ...] = ()
    """One per scorer; none = all equal."""

    def __post_init__(self) -> None:
        if self.pairs not in STRATEGIES:
            raise unknown("way to pair", self.pairs, STRATEGIES)
        if self.combine not in COMBINATIONS:
            raise unknown("combination", self.combine, COMBINATIONS)
        if self.candidates < 2:
            raise UserError(f"candidates: pairs need at least 2 images per prompt, not {self.candidates}")
        if self.shard_size < 1:
            raise UserError(f"shard size: at least 1 prompt, not {self.shard_size}")
        if not self.min_margin >= 0:
            raise UserError(f"min margin: at least 0, not {self.min_margin}")


def label(
    prompts: Sequence[Prompt],
    out: str | Path,
    source: ImageSource,
    judges: Sequence[Scorer],
    how: Labeling,
    inputs: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Make the triplet store `out`, go on with it, or make again what it has lost.

    Returns `summary(out)`; the manifest holds the same.

    Args:
        inputs: the files the prompts came from, recorded by content.

    Raises:
        UserError: `out` holds something else or was made with other settings, a score is not finite, no
            prompt gave a pair, the scorers cannot be combined so.
    """
    out = Path(out)
    check_combination(how.combine, how.weights, len(judges))
    settings = label_settings(prompts, source.settings, {judge.name: judge.settings for judge in judges}, how)
    with claimed(out, "label", settings, inputs, products=PRODUCTS) as run:
        _make_shards(prompts, out, source, judges, how)
        results = summary(out, unfinished=run.state != "complete")
        if results["pairs"] == 0:
            raise UserError(f"{out}: no pair left, {_why_none(how, len(prompts))} and name another folder")
        if run.state != "complete":
            run.finish(results)
    return results


def summary(out: str | Path, *, unfinished: bool = False) -> dict[str, Any]:
    """What a store holds: counts, the mean margin, every scorer's mean over all candidates; how far several agree.

    Args:
        unfinished: as `TripletStore.open` has it.
    """
    store, scores = TripletStore.open(out, unfinished=unfinished), read_scores(out)
    values = np.array(scores["score"])
    names = np.array(scores["scorer"])
    prompts = len(set(scores["caption"]))
    rows = {name: values[names == name] for name in dict.fromkeys(scores["scorer"])}
    results = {
        "prompts": prompts,
        "images": len(set(scores["image_id"])),
        "pairs": len(store),
        "ties": int(store.ties.sum()),
        "prompts_without_pair": prompts - len(set(store.captions)),
        "mean_margin": float(store.margins.mean()) if len(store) else None,
        "mean_scores": {name: float(row.mean()) for name, row in rows.items()},
    }
    if len(rows) < 2:
        return results
    captions = [caption for caption, name in zip(scores["caption"], names, strict=True) if name == names[0]]
    return results | {"agreement": agreement(list(rows), np.stack(list(rows.values())), captions)}


def label_settings(
    prompts: Sequence[Prompt], source: Mapping[str, Any], scorers: Mapping[str, Any], how: Labeling
) -> dict[str, Any]:
    """What decides a store. `source`, `scorers`: the settings of what makes the images, and of each scorer by name."""
    chosen = asdict(how)
    if not how.weights and how.combine == "weighted":
        # A folder says nothing of what it did not use: one made before there was a choice goes on.
        del chosen["combine"], chosen["weights"]
    return {
        **source,
        **chosen,
        "prompts": {"n": len(prompts), "sha256": prompts_hash(prompts)},
        "scorers": dict(scorers),
    }


def _make_shards(
    prompts: Sequence[Prompt], out: Path, source: ImageSource, judges: Sequence[Scorer], how: Labeling
) -> None:
    shards = [prompts[start : start + how.shard_size] for start in range(0, len(prompts), how.shard_size)]
    missing = [shard for shard in range(len(shards)) if not is_done(out, shard)]
    if not missing:
        return
    total = len(prompts) * how.candidates
    to_make = sum(len(shards[shard]) for shard in missing) * how.candidates
    if len(missing) < len(shards):
        say(f"{out}: going on; {len(shards) - len(missing)} of {len(shards)} shards are there")
    began = time.monotonic()
    with progress("labeling", total, done=total - to_make) as advance, _drawn(shards, missing, source, how) as drawn:
        for shard in missing:
            candidates = candidates_of(shards[shard], how)
            images: list[Image.Image] = []
            for batch in islice(drawn, count_batches(len(candidates), source)):
                images += batch
                advance(len(batch))
            write_shard(shard, candidates, images, out, judges, how, source.name)
    seconds = time.monotonic() - began
    say(f"{to_make} images in {seconds:.0f} s: {to_make / max(seconds, 1e-9):.2f} images/s")


def _drawn(
    shards: Sequence[Sequence[Prompt]], missing: Sequence[int], source: ImageSource, how: Labeling
) -> AbstractContextManager[Iterator[list[Image.Image]]]:
    """The batches of the missing shards; those of a whole shard wait at most while another is scored and written."""
    most = count_batches(how.shard_size * how.candidates, source) if len(missing) > 1 and source.apart else 0
    return ahead(batches((candidates_of(shards[shard], how) for shard in missing), source), most)


def _why_none(how: Labeling, prompts: int) -> str:
    if how.combine == "pareto":
        why = "the scorers disagree on every two candidates, or the min margin is too high"
        return f"in all {prompts} prompts {why}; combine them in another way"
    return f"the margins of all {prompts} prompts are below the min margin {how.min_margin}; lower it"
