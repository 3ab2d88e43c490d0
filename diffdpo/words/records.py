"""Data to tune on, as records: demonstrations, preference pairs, rankings, plain texts. All are functions of the seed.

The true reward chooses and ranks. Prompts of training and of held-out records share no subject.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from diffdpo.runs import whole_file
from diffdpo.words.corpus import draw_text
from diffdpo.words.flaws import spoil
from diffdpo.words.review import Prompt, draw_prompt, write_review
from diffdpo.words.reward import reward

FLAWED_SHARE = 0.2
"""Of the answers that pairs and rankings are made of."""
FEWEST, MOST = 4, 9
"""Answers of a ranking (Ouyang et al. 2022)."""

Record = dict[str, Any]
Maker = Callable[[random.Random, bool], Record]


def demonstration(rng: random.Random, held_out: bool) -> Record:
    """`prompt`, `completion`: a review as it is, of whatever mood."""
    review = write_review(rng, draw_prompt(rng, held_out=held_out))
    return {"prompt": str(review.prompt), "completion": review.completion}


def pair(rng: random.Random, held_out: bool) -> Record:
    """`prompt`, `chosen`, `rejected`: two answers of different reward."""
    prompt = draw_prompt(rng, held_out=held_out)
    while True:
        answers = sorted((draw_answer(rng, prompt) for _ in range(2)), key=lambda answer: reward(f"{prompt}{answer}"))
        if reward(f"{prompt}{answers[0]}") < reward(f"{prompt}{answers[1]}"):
            return {"prompt": str(prompt), "chosen": answers[1], "rejected": answers[0]}


def ranking(rng: random.Random, held_out: bool) -> Record:
    """`prompt`, `answers`, `ranks`: 4 to 9 different answers; 1 is best, answers of equal reward share a rank."""
    prompt = draw_prompt(rng, held_out=held_out)
    size, answers = rng.randint(FEWEST, MOST), dict[str, float]()
    while len(answers) < size:
        answer = draw_answer(rng, prompt)
        answers[answer] = reward(f"{prompt}{answer}")
    order = sorted(set(answers.values()), reverse=True)
    return {
        "prompt": str(prompt),
        "answers": list(answers),
        "ranks": [order.index(value) + 1 for value in answers.values()],
    }


def plain_text(rng: random.Random, held_out: bool) -> Record:
    """`text`: of the mix that the model was pretrained on."""
    return {"text": draw_text(rng, held_out=held_out)}


def prompt_only(rng: random.Random, held_out: bool) -> Record:
    """`prompt`, to be answered."""
    return {"prompt": str(draw_prompt(rng, held_out=held_out))}


MAKERS: Mapping[str, Maker] = {
    "demonstrations": demonstration,
    "pairs": pair,
    "rankings": ranking,
    "texts": plain_text,
    "prompts": prompt_only,
}


def draw_answer(rng: random.Random, prompt: Prompt) -> str:
    """An answer to choose from: a review in a mood of its own, sometimes flawed."""
    review = write_review(rng, prompt)
    return spoil(rng, prompt, review.sentences) if rng.random() < FLAWED_SHARE else review.completion


def draw_records(kind: str, n: int, *, seed: int, held_out: bool = False) -> Iterator[Record]:
    """`n` records of one of MAKERS; the i-th is a function of (kind, seed, side, i)."""
    for i in range(n):
        yield MAKERS[kind](random.Random(f"{kind} {seed} {held_out} {i}"), held_out)


def write_records(folder: Path, sizes: Mapping[str, int], *, seed: int, n_held_out: int) -> None:
    """Write `<kind>/train.jsonl` and `<kind>/test.jsonl` below `folder`, one record a line; equal seeds, equal bytes.

    Args:
        sizes: training records of each of MAKERS.
        n_held_out: held-out records of each.
    """
    for kind, size in sizes.items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for split, n in (("train", size), ("test", n_held_out)):
            with whole_file(folder / kind / f"{split}.jsonl") as file:
                for record in draw_records(kind, n, seed=seed, held_out=split == "test"):
                    file.write(json.dumps(record).encode() + b"\n")
