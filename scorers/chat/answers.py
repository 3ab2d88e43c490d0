"""What a model wrote -> the number or the choice it means, or None. Strict: a guess would become a label."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

_NUMBER = r"[+-]?\d+(?:\.\d+)?"
_IS = r"(?:\s*[:=]\s*|\s+is:?\s+|\s+)"
_RATED = re.compile(
    rf"(?:(?:(?:the|my|final|overall)\s+)*(?:score|rating|answer){_IS})?"
    rf"({_NUMBER})(?:\s*(?:/|out of)\s*({_NUMBER}))?\.?",
    re.IGNORECASE,
)
_CHOSEN = re.compile(
    rf"(?:(?:(?:the|my|final|better|best)\s+)*(?:answer|choice|winner){_IS})?(?:(?:image|response)\s+)?\[*(A|B|C|TIE)\]*\.?",
    re.IGNORECASE,
)
_CHOICES = {"A": 1.0, "B": 0.0, "C": 0.5, "TIE": 0.5}

_THOUGHT = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
_FENCED = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)


@dataclass(frozen=True)
class Answer:
    """The value a scorer uses, and what it was read from."""

    value: float
    text: str


def read_number(text: str, low: float, high: float) -> float | None:
    """`8`, `7.5/10`, `Score: 8`, `**8**`, `{"score": 8}` -> the number; None for any other text.

    A number outside low..high is None, and so is one over anything else than `high`: 4/5 is no 4 of 10.
    """
    match = _RATED.fullmatch(_bare(text, ("score", "rating", "answer")))
    if match is None or (match[2] is not None and float(match[2]) != high):
        return None
    value = float(match[1])
    return value if low <= value <= high else None


def read_choice(text: str) -> float | None:
    """`A`, `Image B`, `[[C]]`, `Answer: tie`, `{"winner": "A"}` -> 1 for A, 0 for B, 0.5 for a tie, or None."""
    match = _CHOSEN.fullmatch(_bare(text, ("answer", "choice", "winner")))
    return None if match is None else _CHOICES[match[1].upper()]


def _bare(text: str, keys: tuple[str, ...]) -> str:
    """Without what models put around an answer: thoughts, a code fence, emphasis, a JSON object with one of `keys`."""
    text = _THOUGHT.sub("", text, count=1).strip()
    fenced = _FENCED.fullmatch(text)
    text = fenced[1] if fenced else text
    if text.startswith("{"):
        text = _field(text, keys)
    return text.replace("*", "").replace("`", "").strip()


def _field(text: str, keys: tuple[str, ...]) -> str:
    """The value of the one field that is among `keys`; other fields, such as a reason, are ignored."""
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    found = [value for key, value in content.items() if key.lower() in keys]
    plain = len(found) == 1 and isinstance(found[0], str | int | float) and not isinstance(found[0], bool)
    return str(found[0]) if plain else ""
