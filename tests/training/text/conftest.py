"""A tiny language model with data for every text method, and configs for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from text_samples import METHODS, language_model, pairs, rankings, write_jsonl

from diffdpo.config import TEXT_METHODS, TextConfig, build


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    language_model(folder / "lm")
    write_jsonl(folder / "pairs.jsonl", pairs(30))
    write_jsonl(folder / "rankings.jsonl", rankings(30))
    return folder


@pytest.fixture
def make_text(inputs: Path, tmp_path: Path) -> Callable[..., TextConfig]:
    """A config of a method; keyword arguments are `section__key=value`."""

    def make(method: str, **changes: Any) -> TextConfig:
        settings: dict[str, Any] = {
            "method": method,
            "output": str(tmp_path / "run"),
            "model": {"path": str(inputs / "lm")},
            "data": {"path": "pairs.jsonl", "held_out_share": 0.3, "cache": str(tmp_path / "cache")},
            "training": {
                "steps": 6, "batch_size": 4, "learning_rate": 1e-3, "ema": 0.9,
                "checkpoint_every": 2, "evaluate_every": 3, "log_every": 3,
            },
        }  # fmt: skip
        for path, value in {**METHODS[method], **changes}.items():
            section, _, key = path.partition("__")
            if key:
                settings.setdefault(section, {})[key] = value
            else:
                settings[section] = value
        settings["data"]["path"] = str(inputs / settings["data"]["path"])
        return build(TEXT_METHODS[method], settings)

    return make
