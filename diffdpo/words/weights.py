"""Where the tiny language model that ships with the package lies. Imports nothing slow."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).with_name("weights")
LANGUAGE_MODEL = FOLDER / "lm"


def resolve_model(name: str) -> str:
    """The folder of the built-in language model for the name `words`; any other name as it is."""
    return str(LANGUAGE_MODEL) if name == "words" else name
