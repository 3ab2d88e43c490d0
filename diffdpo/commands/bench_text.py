"""`diffdpo bench text`: a language model against a fixed baseline."""

from __future__ import annotations

import argparse
from typing import Any

OPTIONS = "of text"


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    """The options that only this suite has."""


def run(args: argparse.Namespace) -> dict[str, Any]:
    raise NotImplementedError


def show(result: dict[str, Any]) -> None:
    raise NotImplementedError
