"""Finding a weight file (local path, folder or hub) and reading it safely. Knows no architecture."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from scorers.errors import ScorerError, first_line

_SHOWN = 3
"""Keys listed in a mismatch message: enough to recognise a wrong file."""


def looks_local(model: str) -> bool:
    """Whether `model` must be a path: it exists or is written like one. All else may be a hub name."""
    written = model.startswith((".", "~")) or os.path.isabs(model) or model.count("/") > 1
    return written or os.path.exists(model)


def find_file(model: str | None, repository: str, filename: str) -> Path:
    """The weight file for `model`: a file, a folder that holds `filename`, or a hub repository that does.

    None means `filename` of the hub repository `repository`.
    """
    if model is not None and looks_local(model):
        path = Path(model).expanduser()
        path = path / filename if path.is_dir() else path
        if not path.is_file():
            raise ScorerError(f"there is no weight file {path}: give the path of a .pt or .safetensors file")
        return path
    from huggingface_hub import hf_hub_download

    source = model or repository
    try:
        return Path(hf_hub_download(source, filename))
    except Exception as error:  # the hub client raises many kinds: offline, no such repository, no access
        raise ScorerError(
            f"{filename} of {source!r} is no local file and the hub did not give it ({first_line(error)}): "
            "give model= the path of a local copy"
        ) from error


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a `.safetensors`, or a `.pt`/`.pth` (bare or under the key `state_dict`), on the CPU.

    Pickles are opened with `weights_only=True`: a weight file must not be able to run code.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors: dict[str, Tensor] = load_file(path)
            return tensors
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ScorerError(f"{path} is damaged or holds more than tensors: get the file again") from error
    except Exception as error:  # safetensors and torch raise their own kinds on a cut or foreign file
        why = first_line(error)
        raise ScorerError(f"{path} cannot be read as weights ({why}): get the file again") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ScorerError(f"{path} holds no state dict: expected tensors by name, or that under 'state_dict'")
    return {key.removeprefix("module."): value for key, value in state.items()}


def load_strict(module: nn.Module, state: dict[str, Tensor], what: str, hint: str) -> None:
    """Copy `state` into `module`; every key must be there, none left over, every shape right."""
    expected = module.state_dict()
    wrong = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "misshapen": [key for key in expected if key in state and expected[key].shape != state[key].shape],
    }
    found = "; ".join(f"{len(keys)} {kind} ({_some(keys)})" for kind, keys in wrong.items() if keys)
    if found:
        raise ScorerError(f"{what} does not fit: keys {found}. {hint}")
    module.load_state_dict(state)


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")
