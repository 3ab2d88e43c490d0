"""A ready recipe over the tiny model and a small store."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffdpo.config import DpoConfig, build


@pytest.fixture
def make_config(tiny_model: Path, make_store: Callable[..., Path], tmp_path: Path) -> Callable[..., DpoConfig]:
    """A config for the tiny model; keyword arguments are `section__key=value`. The store is made once per test."""
    made: list[Path] = []

    def make(store: Path | None = None, **changes: Any) -> DpoConfig:
        if store is None:
            if not made:
                made.append(make_store(24))
            store = made[0]
        config = build(
            DpoConfig,
            {
                "output": str(tmp_path / "run"),
                "model": {"path": str(tiny_model), "reference": "copy"},
                "data": {"path": str(store), "held_out_share": 0.25, "cache": str(tmp_path / "cache")},
                "training": {
                    "steps": 6,
                    "batch_size": 4,
                    "learning_rate": "1e-3",
                    "warmup_steps": 2,
                    "ema": 0.9,
                    "checkpoint_every": 2,
                    "evaluate_every": 3,
                    "log_every": 3,
                },
                "loss": {"beta": 500, "winner_safeguard": 0.9},
            },
        )
        sections: dict[str, dict[str, Any]] = {}
        for path, value in changes.items():
            section, _, key = path.partition("__")
            sections.setdefault(section, {})[key] = value
        replaced = {
            name: keys[""] if "" in keys else dataclasses.replace(getattr(config, name), **keys)
            for name, keys in sections.items()
        }
        return dataclasses.replace(config, **replaced)

    return make
