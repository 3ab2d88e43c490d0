"""The suite of the built-in micro world: captions whose combinations no training saw, judged by an exact checker.

The list is fixed: every held-out caption once, in an order in which the captions of two things go round the twelve
pairs of relation and background, and those of one thing are spread evenly over the default length. The default 320
are therefore 311 captions of two things (26 for each relation and background, 25 for one) and all 9 of one thing; a
shorter list keeps these proportions.
"""

from __future__ import annotations

import hashlib
import itertools
from functools import cache
from typing import TYPE_CHECKING

from diffdpo.benchmarks.registry import Case, Options, Suite, Verdict
from diffdpo.shapes.scene import BACKGROUNDS, RELATIONS, Scene, parse_caption, split_scenes
from diffdpo.shapes.weights import GUIDANCE, STEPS

if TYPE_CHECKING:
    from PIL import Image

N_PROMPTS = 320
SCORERS = ("shapes-pickscore", "shapes-hpsv2")


def load(options: Options) -> Suite:
    """The suite; it takes no options."""
    captions = held_out_captions()
    return Suite(
        name="shapes",
        title="held-out captions",
        cases=tuple(Case(caption, f"{place:05d}", categories(caption)) for place, caption in enumerate(captions)),
        scorers=SCORERS,
        default_prompts=N_PROMPTS,
        steps=STEPS,
        guidance=GUIDANCE,
        check=check_parts,
    )


@cache
def held_out_captions() -> tuple[str, ...]:
    """All held-out captions in the order of the suite."""
    scenes = sorted(split_scenes(held_out=True), key=lambda scene: hashlib.sha256(scene.caption.encode()).hexdigest())
    cells = [
        [scene.caption for scene in scenes if (scene.relation, scene.background) == cell]
        for cell in itertools.product(RELATIONS, BACKGROUNDS)
    ]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*cells))
    captions = [caption for caption in turns if caption is not None]
    one = [scene.caption for scene in scenes if scene.second is None]
    for place, caption in enumerate(one):
        captions.insert(place * N_PROMPTS // len(one), caption)
    return tuple(captions)


def check_parts(image: Image.Image, case: Case) -> Verdict:
    """Which parts of the caption hold in the image, and whether all do ("exact")."""
    from diffdpo.shapes.checker import check

    found = check(image, case.prompt)
    return Verdict({**found.parts(), "exact": found.exact})


def categories(caption: str) -> dict[str, str]:
    """What kinds a caption belongs to."""
    scene: Scene = parse_caption(caption)
    relation = {} if scene.relation is None else {"relation": scene.relation}
    number = "one" if scene.second is None else "two"
    return {"number of things": number, **relation, "background": scene.background}
