"""Settings of a training run: frozen dataclasses, one file per kind of recipe. Imports nothing slow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffdpo.config.image import (
    IMAGE_METHODS,
    DataConfig,
    DpoConfig,
    FreeModelConfig,
    ImageConfig,
    KtoConfig,
    KtoLossConfig,
    LossConfig,
    MapoConfig,
    MapoLossConfig,
    ModelConfig,
    SamplesConfig,
    SftConfig,
    SftLossConfig,
)
from diffdpo.config.ppo import PpoLossConfig, PtxConfig, RewardSourceConfig, RolloutConfig
from diffdpo.config.scorer import JudgementsConfig, ScorerConfig, ScorerLossConfig, ScorerModelConfig
from diffdpo.config.shared import LoraConfig, TrainingConfig
from diffdpo.config.strict import apply, build, read_yaml
from diffdpo.config.text import (
    TEXT_METHODS,
    ChoiceConfig,
    PpoConfig,
    RewardConfig,
    RewardLossConfig,
    TextConfig,
    TextDataConfig,
    TextDpoConfig,
    TextDpoLossConfig,
    TextKtoConfig,
    TextKtoLossConfig,
    TextModelConfig,
    TextSftConfig,
    TextSftLossConfig,
)
from diffdpo.errors import UserError, unknown

__all__ = [
    "IMAGE_METHODS",
    "METHODS",
    "TEXT_METHODS",
    "ChoiceConfig",
    "Config",
    "DataConfig",
    "DpoConfig",
    "FreeModelConfig",
    "ImageConfig",
    "JudgementsConfig",
    "KtoConfig",
    "KtoLossConfig",
    "LoraConfig",
    "LossConfig",
    "MapoConfig",
    "MapoLossConfig",
    "ModelConfig",
    "PpoConfig",
    "PpoLossConfig",
    "PtxConfig",
    "RewardConfig",
    "RewardLossConfig",
    "RewardSourceConfig",
    "RolloutConfig",
    "SamplesConfig",
    "ScorerConfig",
    "ScorerLossConfig",
    "ScorerModelConfig",
    "SftConfig",
    "SftLossConfig",
    "TextConfig",
    "TextDataConfig",
    "TextDpoConfig",
    "TextDpoLossConfig",
    "TextKtoConfig",
    "TextKtoLossConfig",
    "TextModelConfig",
    "TextSftConfig",
    "TextSftLossConfig",
    "TrainingConfig",
    "build",
    "load_config",
]

Config = ImageConfig | ScorerConfig | TextConfig

METHODS: dict[str, dict[str, type[Config]]] = {
    "image": {**IMAGE_METHODS, "scorer": ScorerConfig},
    "text": {**TEXT_METHODS},
}
"""By modality."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe and apply overrides such as `loss.beta=2000`.

    Raises:
        UserError: the file is missing or is not a YAML mapping, a key is unknown or missing, or a value is unfit.
    """
    settings = read_yaml(Path(path))
    for override in overrides:
        apply(settings, override)
    modality = settings.get("modality", "image")
    if not isinstance(modality, str) or modality not in METHODS:
        raise unknown("modality", str(modality), METHODS)
    if modality == "image":
        settings.pop("modality", None)
    methods, method = METHODS[modality], settings.get("method", "dpo")
    if not isinstance(method, str) or method not in methods:
        elsewhere = [name for name, known in METHODS.items() if str(method) in known]
        if elsewhere:
            raise UserError(f"{path}: method {method!r} is of `modality: {elsewhere[0]}`, and here it is {modality}")
        raise unknown("method", str(method), methods)
    try:
        return build(methods[method], settings)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
