"""Models of the text world on the reward-KL frontier, for the demo and `scripts/text_frontier.py`.

What was measured is kept, and measured again where a model has changed since.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffdpo.benchmarks.frontier.points import Measured

PROMPTS, TEXTS = 256, 300
"""Held-out ones that are measured on, the same for every model."""
MAX_TOKENS = 96
"""Of an answer."""


def measure(model: str, reference: str, file: Path, *, method: str, setting: str, seed: int) -> Measured:
    """Exact reward and KL of one answer to each prompt, and the grip on plain texts; kept in `file`.

    Args:
        model: a folder with a language model, or `words`.
        reference: that of the model the KL is to.
    """
    from diffdpo.benchmarks.frontier.measure import draw, plain_text_losses
    from diffdpo.benchmarks.frontier.points import Measured
    from diffdpo.words.reward import rewards

    of = _of(model, reference)
    if there := _kept(file, of):
        return there
    policy = _opened(model)
    drawn = draw(policy, _opened(reference), held_out_prompts(), rewards, seed=seed, max_tokens=MAX_TOKENS)
    n = len(drawn.rewards)
    found = Measured(
        *(method, setting, seed, drawn.rewards, drawn.kls, plain_text_losses(policy, held_out_texts())),
        length=sum(drawn.lengths) / n,
        ended=sum(drawn.ended) / n,
        of=of,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    found.write(file)
    return found


def best_of_n(model: str, judge: str, sizes: Sequence[int], folder: Path, *, seed: int) -> list[Measured]:
    """The answer that a judge likes best of n, for every n; the KL is the formula's. Kept below `folder`.

    Args:
        judge: a reward model's folder or the name of a program, as `reward.source`.
    """
    from diffdpo.benchmarks.frontier.measure import draw
    from diffdpo.benchmarks.frontier.points import Measured
    from diffdpo.commands.rewards import open_reward
    from diffdpo.labeling.answers import best
    from diffdpo.losses import best_of_n_kl
    from diffdpo.words.reward import rewards

    files, of = {n: folder / f"best-of-{n}-{seed}.json" for n in sizes}, _of(model, judge)
    there = [_kept(file, of) for file in files.values()]
    if all(there):
        return [one for one in there if one]
    prompts, most = held_out_prompts(), max(sizes)
    policy = _opened(model)
    drawn = draw(policy, policy, prompts, rewards, seed=seed, draws=most, max_tokens=MAX_TOKENS)
    asked = [prompt for prompt in prompts for _ in range(most)]
    scores = list(open_reward(judge)(asked, drawn.texts))
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for n, file in files.items():
        picks = [first + best(scores[first : first + n]) for first in range(0, len(scores), most)]
        one = Measured(
            *("best of n", f"n {n}", seed, [drawn.rewards[pick] for pick in picks]),
            *([best_of_n_kl(n)] * len(picks), []),
            length=sum(drawn.lengths[pick] for pick in picks) / len(picks),
            ended=sum(drawn.ended[pick] for pick in picks) / len(picks),
            of=of,
        )
        one.write(file)
        found.append(one)
    return found


def held_out_prompts() -> list[str]:
    """Of subjects that no training text names."""
    from diffdpo.words.review import all_prompts

    return random.Random(0).sample([str(prompt) for prompt in all_prompts(held_out=True)], PROMPTS)


def held_out_texts() -> list[str]:
    """Of the kinds that are no reviews."""
    from diffdpo.words.corpus import draw_texts

    return draw_texts(TEXTS, seed=20_000, source="general", held_out=True)


def _of(*models: str) -> str:
    """A name of what models hold, wherever they lie."""
    from diffdpo.commands.language_models import content

    return " ".join(str(content(model)) for model in models)


def _kept(file: Path, of: str) -> Measured | None:
    from diffdpo.benchmarks.frontier.points import Measured

    there = Measured.read(file) if file.exists() else None
    return there if there and there.of == of else None


@lru_cache(maxsize=2)
def _opened(path: str) -> Any:
    from diffdpo.models.text.causal_lm import CausalLM
    from diffdpo.words.weights import resolve_model

    return CausalLM(resolve_model(path))
