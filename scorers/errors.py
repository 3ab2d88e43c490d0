"""The one exception of this package. It imports nothing, so that wrong use is reported before torch loads."""

from __future__ import annotations


class ScorerError(ValueError):
    """Wrong use, a missing or damaged file, an input that cannot be scored. The message is one plain line."""


def first_line(error: BaseException, limit: int = 200) -> str:
    """The first line of an exception's text, or its type: what fits into a one-line message of our own."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."
