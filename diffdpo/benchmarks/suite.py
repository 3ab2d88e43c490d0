"""Run a suite: images for its prompts, scores for the images, a folder with both.

A run that was stopped goes on where it stood when it is given again, and ends in the same files. A part of a run is a
folder like it, for `merge` to put together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffdpo.benchmarks import pictures
from diffdpo.benchmarks.blocks import Part, span_of
from diffdpo.benchmarks.judging import KEPT, Judge, forget_blocks
from diffdpo.benchmarks.pictures import Draw
from diffdpo.benchmarks.registry import Case, Suite
from diffdpo.benchmarks.results import COMMAND, IMAGES, RESULTS, SUMMARY, BenchRun, Row, read_part, write_results
from diffdpo.benchmarks.summary import summarize
from diffdpo.errors import unknown
from diffdpo.runs import Run, State, check_claim, claimed, read_manifest

if TYPE_CHECKING:
    from scorers.base import Scorer

PRODUCTS = (
    *(f"{IMAGES}/**/[0-9]*{suffix}" for suffix in pictures.SUFFIXES),
    f"{KEPT}/*/*.json",
    RESULTS,
    SUMMARY,
)


def run_suite(
    suite: Suite,
    out: str | Path,
    *,
    draw: Draw | None = None,
    images: str | Path | None = None,
    scorers: Sequence[str] | None = None,
    load_scorer: Callable[[str], Scorer] | None = None,
    limit: int | None = None,
    seed: int = 0,
    part: Part | None = None,
    batch_size: int = 8,
    settings: Mapping[str, Any] | None = None,
) -> BenchRun:
    """Make or finish the run in `out`, or one part of it.

    Args:
        draw: makes the images, or
        images: a folder that holds them in the suite's layout. Just one of the two is given.
        scorers: names, the suite's own unless given; `load_scorer` opens one (`scorers.load` on the CPU).
        limit: use the first so many prompts.
        seed: the suite's seed, from which each image's own follows (`Suite.seed`).
        part: make only this part; `merge_parts` puts all of them together.
        batch_size: images per call of `draw`.
        settings: what decides the images: the model and how it samples. Stored, and compared when a run goes on.

    Raises:
        UserError: `out` belongs to another run, or an input cannot be used.
    """
    if (draw is None) == (images is None):
        raise ValueError("give either draw or images")
    work = _Work(suite, suite.take(limit), scorers, seed, images, part, batch_size)
    if load_scorer is None:
        check_scorers(work.scorers)
    load = load_scorer or _load
    with claimed(out, COMMAND, work.settings(settings), suite.files, products=PRODUCTS) as run:
        if run.state != "complete":
            if draw is not None and run.state == "new":
                _try(work.scorers, load)
                if suite.prepare is not None:
                    suite.prepare()
            work.do(run, draw, load)
        forget_blocks(run.folder)
    return read_part(run.folder)


def check_suite(
    suite: Suite,
    out: str | Path,
    *,
    scorers: Sequence[str],
    images: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    part: Part | None = None,
    batch_size: int = 8,
    settings: Callable[[], Mapping[str, Any]],
) -> State:
    """For a dry run: raise what `run_suite` would raise at once, write nothing. Returns the state of `out`."""
    work = _Work(suite, suite.take(limit), scorers, seed, images, part, batch_size)
    return check_claim(out, COMMAND, lambda: work.settings(settings()))


class _Work:
    """What there is to do in one run, or in one part of it."""

    def __init__(
        self,
        suite: Suite,
        cases: Sequence[Case],
        scorers: Sequence[str] | None,
        seed: int,
        images: str | Path | None,
        part: Part | None,
        batch_size: int,
    ) -> None:
        self.suite, self.cases, self.part, self.batch_size = suite, cases, part, batch_size
        self.scorers = list(dict.fromkeys(suite.scorers if scorers is None else scorers))
        self.span = span_of(part, len(cases), batch_size)
        self.seed, self.images = seed, images
        names = [cases[index].name for index in self.span]
        self.given = None if images is None else pictures.named_images(Path(images), names)
        if images is not None:
            pictures.check_drawn_for(Path(images), names, [cases[index].prompt for index in self.span])

    def settings(self, more: Mapping[str, Any] | None) -> dict[str, Any]:
        """What decides the results."""
        suite, given = self.suite, self.given
        return {
            "suite": suite.name,
            "prompts": len(self.cases),
            "prompts_sha256": hashlib.sha256(json.dumps([case.prompt for case in self.cases]).encode()).hexdigest(),
            **({"images_per_prompt": suite.repeats} if suite.repeats > 1 else {}),
            **suite.settings,
            "seed": self.seed if given is None else None,
            "scorers": self.scorers,
            **(more or {}),
            **({} if given is None else {"images": str(self.images), "images_sha256": pictures.files_hash(given)}),
            # A part ends at a whole batch, so its machine must cut as the others do.
            **({} if self.part is None else {"part": str(self.part), "batch_size": self.batch_size}),
        }

    def do(self, run: Run, draw: Draw | None, load_scorer: Callable[[str], Scorer]) -> None:
        """Draw or take the images, measure them, write the results."""
        cases = [self.cases[index] for index in self.span]
        if draw is not None:
            files = [run.folder / IMAGES / f"{case.name}.png" for case in cases]
            seeds = [self.suite.seed(self.seed, index) for index in self.span]
            pictures.draw_missing(files, [case.prompt for case in cases], seeds, draw, self.batch_size)
        else:
            files = self.given or []
        judge = Judge(run.folder, self.cases, dict(zip(self.span, files, strict=True)), self.batch_size)
        scores, made_by = {}, {}
        for name in self.scorers:  # one scorer is in memory at a time
            scorer = load_scorer(name)
            scores[name] = judge.scores(name, scorer)
            made_by[name] = {"scale": scorer.scale, "settings": scorer.settings}
            del scorer
        seen = judge.looks(self.suite)
        rows = [self._row(place, files[place], scores, seen[place]) for place in range(len(self.span))]
        if draw is None:
            pictures.copy_images(files, [run.folder / row.image for row in rows])
        finish(run, self.suite.title, rows, made_by)

    def _row(self, place: int, file: Path, scores: Mapping[str, Sequence[float]], seen: Mapping[str, Any]) -> Row:
        """The row of the image at `place` of the span. `seen`: what `Judge.looks` found."""
        index = self.span[place]
        case, verdict = self.cases[index], seen["verdict"] or {"parts": None, "why": ""}
        return Row(
            index=index,
            prompt=case.prompt,
            seed=None if self.given is not None else self.suite.seed(self.seed, index),
            image=f"{IMAGES}/{case.name}{file.suffix.lower()}",
            scores={name: values[place] for name, values in scores.items()},
            parts=verdict["parts"],
            look=seen["look"],
            categories=dict(case.categories),
            why=verdict["why"],
            size=seen["size"],
        )


def finish(run: Run, title: str, rows: Sequence[Row], scorers: Mapping[str, Any]) -> None:
    """Write the results and close the folder. A part has no figures of its own: they would be of no fixed set."""
    settings = read_manifest(run.folder)["settings"]
    summary: dict[str, Any] = {"suite": settings["suite"], "title": title, "images": len(rows)}
    if "part" in settings:
        summary |= {"part": settings["part"], "scorers": dict(scorers)}
    else:
        summary = summarize(title, rows, scorers, settings)
    write_results(run.folder, rows, summary)
    run.finish({group: summary[group] for group in ("parts", "scores") if group in summary})


def _try(names: Sequence[str], load_scorer: Callable[[str], Scorer]) -> None:
    """Open every scorer and let it go, so that weights that cannot be used stop a run before images are drawn."""
    for name in names:
        load_scorer(name)


def check_scorers(names: Sequence[str]) -> None:
    """Raises UserError for a scorer that does not exist, before anything is drawn."""
    import scorers

    known = scorers.names()
    for name in names:
        if name not in known:
            raise unknown("scorer", name, known)


def _load(name: str) -> Scorer:
    import scorers

    return scorers.load(name)
