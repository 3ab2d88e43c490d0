"""Tiny pipelines of every family, each made once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from family_samples import make


@pytest.fixture(scope="session")
def sample(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's sample. It is shared: copy it before changing it."""
    folder = tmp_path_factory.mktemp("families")

    @functools.cache
    def made(family: str) -> Path:
        return tiny_model if family == "sd15" else make(family, tiny_model, folder / family)

    return made
