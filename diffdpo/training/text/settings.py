"""What decides the result of a text run, in JSON values."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from diffdpo.config import PpoConfig, RewardLossConfig, TextConfig, TextSftConfig
from diffdpo.data.text.readers import TextSource, open_text
from diffdpo.models.text.packaged import packaged
from diffdpo.runs import content_hash
from diffdpo.training.folder import without_pace


def text_settings(config: TextConfig, source: TextSource) -> dict[str, Any]:
    """The config, with the content of models and data in place of their paths."""
    settings = dataclasses.asdict(config)
    del settings["output"], settings["model"]["path"]
    for name in ("path", "split", "cache"):
        del settings["data"][name]
    settings["training"] = without_pace(settings["training"])
    settings["content"] = {"model": content(config.model.path), "data": source.fingerprint()}
    if isinstance(config.loss, RewardLossConfig) and config.loss.centre_on is not None:
        settings["loss"]["centre_on"] = content(config.loss.centre_on)
    if config.data.filter is not None:
        path, _, labels = config.data.filter.partition("=")
        settings["data"]["filter"] = {"content": content(path), "labels": labels}
    if isinstance(config, TextSftConfig):
        if config.choose.by is None:
            del settings["choose"]
        else:
            settings["choose"]["by"] = content(config.choose.by)
    if isinstance(config, PpoConfig):
        settings["reward"]["source"] = content(config.reward.source)
        if config.model.value is not None:
            settings["model"]["value"] = content(config.model.value)
        if config.ptx.path is not None:
            settings["ptx"]["path"] = open_text(config.ptx.path).fingerprint()
    return settings


def content(path: str) -> str:
    """The hash of a file or folder, of a packaged model too; the name of one on a hub as it is."""
    place = packaged(path)
    return content_hash(place) if Path(place).exists() else place
