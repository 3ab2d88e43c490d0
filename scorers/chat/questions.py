"""What is asked of a model, and which answers are allowed. Knows no model."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from scorers.chat.answers import read_choice

Part = str | Image.Image
"""A piece of a question; images are upright RGB."""


@dataclass(frozen=True)
class Question(ABC):
    """Texts and images in the order in which the model sees them; the last text ends with `instruction`."""

    parts: tuple[Part, ...]
    instruction: str
    """How to answer. It is repeated when an answer could not be read."""

    @property
    @abstractmethod
    def words(self) -> tuple[str, ...]:
        """The answers a local model may choose from."""

    @abstractmethod
    def read(self, text: str) -> float | None:
        """The value of a written answer; None if it is none of the allowed ones."""

    @abstractmethod
    def decide(self, probabilities: Mapping[str, float]) -> float:
        """The value from a probability for each of `words`, which sum to 1."""

    def content(self) -> list[Any]:
        """JSON values that are equal for questions with the same words and pixels in the same order."""
        parts = [part if isinstance(part, str) else {"image": _pixel_hash(part)} for part in self.parts]
        return [type(self).__name__, *self.words, *parts]


@dataclass(frozen=True)
class Choice(Question):
    """Two things, A before B: 1 if A is better, 0 if B is, 0.5 if neither."""

    @property
    def words(self) -> tuple[str, ...]:
        return ("A", "B", "C")  # C, not TIE: one letter like the others, which most tokenizers keep whole

    def read(self, text: str) -> float | None:
        return read_choice(text)

    def decide(self, probabilities: Mapping[str, float]) -> float:
        """The most probable answer; a tie if there is no single one."""
        most = max(probabilities.values())
        best = [word for word in self.words if probabilities[word] == most]
        value = self.read(best[0]) if len(best) == 1 else None
        return 0.5 if value is None else value


CHOOSE = "Answer with A, with B, or with C if neither is better, and nothing else."
"""How to answer a `Choice`."""


def agreed(one: float, other: float) -> float:
    """What a choice in both orders comes to, both from the side of A: what the order decides is a tie."""
    return one if one == other else 0.5


def filled(template: str, prompt: str, instruction: str) -> str:
    """A template with its `{prompt}`, and how to answer."""
    # Not str.format: braces in templates and prompts are text.
    return f"{template.replace('{prompt}', prompt)}\n\n{instruction}"


def _pixel_hash(image: Image.Image) -> str:
    digest = hashlib.sha256(f"{image.mode} {image.width} x {image.height}".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()
