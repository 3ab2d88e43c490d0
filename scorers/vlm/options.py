"""The judge's options: from keywords or a JSON file, checked before a model is opened or a server is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from scorers.chat.options import ChatOptions, read_options
from scorers.errors import ScorerError
from scorers.vlm.questions import COMPARE, RATE

MOST_NUMBERS = 101
"""Steps of the widest scale: a local model gives each a probability."""


@dataclass(frozen=True, kw_only=True)
class Options(ChatOptions):
    """All of them but device and dtype."""

    who = "vlm-judge"
    question: str = RATE
    """What `score` asks; holds `{prompt}`. How to answer is added to it."""
    pair_question: str = COMPARE
    """What `compare` asks."""
    low: int = 1
    high: int = 10
    """The scale of `score`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_whole({"low": None, "high": None})
        self.check_texts(question=False, pair_question=False)
        if not self.low < self.high < self.low + MOST_NUMBERS:
            raise ScorerError(f"vlm-judge: {self.low} to {self.high} is no scale of 2 to {MOST_NUMBERS} numbers")
        for name in ("question", "pair_question"):
            if "{prompt}" not in getattr(self, name):
                raise ScorerError(f"vlm-judge: {name} holds no {{prompt}}, so the prompt would not be asked about")
        if self.endpoint is None and (self.api_key_env or self.request):
            raise ScorerError("vlm-judge: api_key_env and request go with endpoint=, which is not given")


def make_options(model: str | None, options: Mapping[str, Any]) -> tuple[Options, str | None]:
    """(options, dtype or None). `model` may be a `.json` file of options, over which `options` go.

    Raises:
        ScorerError: a file that is none, an unknown option, a value that makes no sense.
    """
    file = Path(model).expanduser() if model and model.endswith(".json") else None
    given: dict[str, Any] = {"model": model} if file is None else read_options(file, Options.who)
    given |= options
    dtype = given.pop("dtype", None)
    known = [field.name for field in fields(Options)]
    for name in given:
        if name not in known:
            raise ScorerError(f"scorer 'vlm-judge' has no option {name!r}; its options: {', '.join(known)}")
    return Options(**given), dtype
