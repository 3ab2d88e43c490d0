"""open_clip architectures: read one by name or from a JSON file, build the model and its tokenizer.

Nothing is added to open_clip's global registry, so one load cannot change the next. Knows no weights.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import open_clip
import torch
from open_clip.tokenizer import HFTokenizer
from torch import Tensor, nn

from scorers.clip import check_tokenizer
from scorers.errors import ScorerError, first_line

Tokenizer = Callable[[list[str]], Tensor]
"""Prompts -> token ids [n, context_length] int64, cut with the end token last, padded."""


@dataclass(frozen=True)
class Architecture:
    """One open_clip model configuration and the pixel statistics it was trained with."""

    name: str
    """A built-in name, or the JSON file's path as it was given."""
    config: dict[str, Any]
    """embed_dim, vision_cfg, text_cfg and open_clip's optional keys."""
    folder: Path | None
    """The JSON file's folder, where a relative tokenizer path is looked for; None for built-in names."""
    mean: tuple[float, float, float] = open_clip.OPENAI_DATASET_MEAN
    std: tuple[float, float, float] = open_clip.OPENAI_DATASET_STD

    @property
    def image_size(self) -> int:
        """Edge of the square input, pixels."""
        size = self.config["vision_cfg"].get("image_size", 224)
        if isinstance(size, int):
            return size
        if len(set(size)) != 1:
            raise ScorerError(f"architecture {self.name}: the image must be square, not {size}")
        return int(size[0])

    @property
    def context_length(self) -> int:
        """Tokens per prompt."""
        return int(self.config["text_cfg"].get("context_length", 77))


def read_architecture(architecture: str) -> Architecture:
    """`architecture`: a name of `open_clip.list_models()`, or the path of a model-config JSON.

    The JSON is open_clip's model config, or `{"model_cfg": .., "preprocess_cfg": {"mean": .., "std": ..}}`.
    """
    if architecture.endswith(".json"):
        return _read_json(architecture)
    built_in = open_clip.list_models()
    if architecture not in built_in:
        close = difflib.get_close_matches(architecture, built_in, n=1)
        guess = f", did you mean {close[0]!r}?" if close else ""
        raise ScorerError(
            f"open_clip has no architecture {architecture!r}{guess} (give a name of "
            "open_clip.list_models() or the path of a .json)"
        )
    return Architecture(architecture, open_clip.get_model_config(architecture), None)


def _read_json(path: str) -> Architecture:
    file = Path(path).expanduser()
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ScorerError(f"there is no architecture file {path}") from error
    except (OSError, ValueError) as error:
        raise ScorerError(f"architecture file {path} cannot be read as JSON: {first_line(error)}") from error
    config = content.get("model_cfg", content) if isinstance(content, dict) else {}
    for key, kind in (("embed_dim", int), ("vision_cfg", dict), ("text_cfg", dict)):
        if not isinstance(config.get(key), kind):
            raise ScorerError(f"architecture file {path}: {key!r} is missing or not of type {kind.__name__}")
    statistics = {key: tuple(content.get("preprocess_cfg", {}).get(key) or ()) for key in ("mean", "std")}
    return Architecture(path, config, file.parent, **{key: value for key, value in statistics.items() if value})


def build_model(architecture: Architecture) -> nn.Module:
    """The model in float32 on the CPU with arbitrary weights; torch's random state stays as it was."""
    config = deepcopy(architecture.config)
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "multimodal_cfg" in config:
        raise ScorerError(f"architecture {architecture.name} is a captioner (multimodal_cfg), not a two-tower model")
    custom = config.pop("custom_text", False) or "hf_model_name" in text
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False  # the checkpoint brings every weight: download none
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = False
    try:
        with torch.random.fork_rng(devices=[]):
            model = open_clip.CustomTextCLIP(**config) if custom else open_clip.CLIP(**config)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ScorerError(f"architecture {architecture.name} is not valid: {first_line(error)}") from error
    return cast(nn.Module, model)


def build_tokenizer(architecture: Architecture) -> Tokenizer:
    """open_clip's tokenizer for this architecture: its BPE, or the one of `text_cfg.hf_tokenizer_name`."""
    text = architecture.config["text_cfg"]
    if architecture.folder is None:
        return cast(Tokenizer, open_clip.get_tokenizer(architecture.name))
    vocabulary = int(text.get("vocab_size", 49408))
    options = dict(text.get("tokenizer_kwargs") or {}, context_length=architecture.context_length)
    if text.get("hf_tokenizer_name"):
        source = _tokenizer_source(text["hf_tokenizer_name"], architecture.folder)
        try:
            tokenizer = HFTokenizer(source, tokenizer_mode=text.get("tokenizer_mode"), **options)
        except (OSError, ValueError) as error:
            raise ScorerError(f"tokenizer {source} cannot be loaded: {first_line(error)}") from error
        check_tokenizer(tokenizer.tokenizer, vocabulary, source)
        return cast(Tokenizer, tokenizer)
    tokenizer = open_clip.SimpleTokenizer(**options)
    if tokenizer.vocab_size > vocabulary:
        raise ScorerError(
            f"architecture {architecture.name}: open_clip's BPE has {tokenizer.vocab_size} tokens, "
            f"the model knows {vocabulary}: set text_cfg.hf_tokenizer_name or vocab_size"
        )
    return cast(Tokenizer, tokenizer)


def _tokenizer_source(name: str, folder: Path) -> str:
    """The folder beside the JSON file if there is one, else `name` itself (absolute path or hub name)."""
    local = folder / name
    if local.is_dir():
        return str(local)
    if name.startswith(".") or Path(name).is_absolute():
        raise ScorerError(f"there is no tokenizer folder {local}")
    return name
