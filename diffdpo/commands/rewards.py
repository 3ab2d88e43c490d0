"""What scores an answer, for every command that wants it: a trained reward model's folder, or a program by its name."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffdpo.errors import UserError, unknown

if TYPE_CHECKING:
    import torch

    from diffdpo.data.text.records import Prompt, Reward

BUILT_IN = {"words": "diffdpo.words.reward:rewards"}
GROUP = "diffdpo.rewards"
"""Entry points of installed packages: functions of prompts and answers, two lists of texts, to a list of scores."""

Program = Callable[[Sequence[str], Sequence[str]], Sequence[float]]


def open_reward(source: str, device: str | torch.device = "cpu") -> Reward:
    """What `reward.source` names, ready to score.

    Raises:
        UserError: neither a reward model's folder nor the name of a program; nothing is run from a file.
    """
    if _is_folder(source):
        return ModelReward(source, device)
    program = find_program(source)

    def score(prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        from diffdpo.data.text.records import prompt_text

        return [float(value) for value in program([prompt_text(prompt) for prompt in prompts], list(answers))]

    return score


def find_program(source: str) -> Program:
    """The function of that name: built in, of an entry point, or `package.module:function`.

    Raises:
        UserError: there is none.
    """
    entries = {entry.name: entry.value for entry in importlib.metadata.entry_points(group=GROUP)}
    name = {**entries, **BUILT_IN}.get(source, source)
    module, colon, function = name.partition(":")
    if not colon or not all(part.isidentifier() for part in [*module.split("."), function]):
        if "/" in source or Path(source).exists():
            raise UserError(f"reward {source}: no folder of a reward model is there")
        raise unknown("reward", source, {**entries, **BUILT_IN})
    try:
        found: Program = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UserError(f"reward {source}: cannot be imported ({error})") from None
    return found


class ModelReward:
    """A trained reward model as a function of texts. It reads them with its own tokenizer."""

    def __init__(self, folder: str, device: str | torch.device = "cpu", batch_size: int = 32) -> None:
        from diffdpo.data.text.tokens import Encoder
        from diffdpo.models.text.reward_model import RewardModel

        check_model(folder)
        self.model = RewardModel(folder, device=device)
        self.encoder = Encoder.of(self.model.tokenizer, folder)
        self.folder, self.batch_size = folder, batch_size

    def __call__(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        """Scores, in their order.

        Raises:
            UserError: prompt and answer are longer than the model was made for.
        """
        both = zip(prompts, answers, strict=True)
        sequences = [self.encoder.answer(self.folder, prompt, answer).ids for prompt, answer in both]
        longest, context = max(map(len, sequences), default=0), self.model.context
        if context is not None and longest > context:
            raise UserError(f"{self.folder}: prompt and answer have {longest} tokens, more than its {context}")
        return self.model.scores(sequences, self.encoder.pad, self.batch_size)


def check_reward(source: str) -> None:
    """Raise what `open_reward` would raise for a wrong name, without loading a model."""
    if _is_folder(source):
        check_model(source)
    else:
        find_program(source)


def _is_folder(source: str) -> bool:
    """A folder that happens to be called like a built-in reward is not meant."""
    return source not in BUILT_IN and Path(source).is_dir()


def check_model(folder: str) -> None:
    from diffdpo.models.text.reward_model import HEAD

    if not (Path(folder) / HEAD).is_file():
        raise UserError(f"reward {folder}: no {HEAD} in it, so it is no reward model that was trained here")
