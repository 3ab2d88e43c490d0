"""The judge's options: from keywords or a JSON file, checked before a model is opened or a server is asked."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from scorers.errors import ScorerError, first_line
from scorers.vlm.questions import COMPARE, RATE

MOST_NUMBERS = 101
"""Steps of the widest scale: a local model gives each a probability."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """All of them but device and dtype."""

    model: str | None = None
    """A hub name or local folder; with `endpoint`, the name by which the server knows the model."""
    endpoint: str | None = None
    """URL of an OpenAI-compatible API, such as `http://localhost:8000/v1`; None = a local model."""
    api_key_env: str | None = None
    """The environment variable that holds the key. The key itself is never a setting."""
    question: str = RATE
    """What `score` asks; holds `{prompt}`. How to answer is added to it."""
    pair_question: str = COMPARE
    """What `compare` asks."""
    low: int = 1
    high: int = 10
    """The scale of `score`."""
    seed: int = 0
    """Sent to the endpoint, with temperature 0."""
    max_tokens: int = 64
    """The longest answer. A model that thinks aloud needs more."""
    request: Mapping[str, Any] | None = None
    """Further fields of the request to the endpoint, or others in place of ours; None leaves a field out."""
    asks: int = 3
    """How often an image is asked about until the answer can be read."""
    workers: int = 8
    """Requests in flight."""
    max_retries: int = 5
    """How often a request is repeated after 429, 5xx, a timeout or a broken connection."""
    timeout: float = 120.0
    """Seconds a request may be silent."""
    cache: str | Path | None = "auto"
    """A folder for the answers, `auto` for one in the user's cache folder, None to keep none."""

    def __post_init__(self) -> None:
        if not self.model or not isinstance(self.model, str):
            raise ScorerError("vlm-judge needs model=: a hub name, a local folder, or a JSON file of options")
        self._check_types()
        if not self.low < self.high < self.low + MOST_NUMBERS:
            raise ScorerError(f"vlm-judge: {self.low} to {self.high} is no scale of 2 to {MOST_NUMBERS} numbers")
        for name in ("question", "pair_question"):
            if "{prompt}" not in getattr(self, name):
                raise ScorerError(f"vlm-judge: {name} holds no {{prompt}}, so the prompt would not be asked about")
        if self.endpoint is None and (self.api_key_env or self.request):
            raise ScorerError("vlm-judge: api_key_env and request go with endpoint=, which is not given")

    def _check_types(self) -> None:
        """JSON files come with anything."""
        least = {"asks": 1, "workers": 1, "max_retries": 0, "max_tokens": 1, "low": None, "high": None, "seed": None}
        for name, bound in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or (bound is not None and value < bound):
                wanted = "a whole number" if bound is None else f"a whole number of at least {bound}"
                raise ScorerError(f"vlm-judge: {name} must be {wanted}, not {value!r}")
        if not isinstance(self.timeout, int | float) or not 0 < self.timeout < float("inf"):
            raise ScorerError(f"vlm-judge: timeout must be a number of seconds above 0, not {self.timeout!r}")
        for name in ("endpoint", "api_key_env", "question", "pair_question"):
            value = getattr(self, name)
            if not (isinstance(value, str) or (value is None and name in ("endpoint", "api_key_env"))):
                raise ScorerError(f"vlm-judge: {name} must be a text, not {value!r}")
        if not (self.cache is None or isinstance(self.cache, str | Path)):
            raise ScorerError(f"vlm-judge: cache must be a folder, 'auto' or nothing, not {self.cache!r}")
        if self.request is not None and not isinstance(self.request, Mapping):
            raise ScorerError(f"vlm-judge: request must be fields and values, not {self.request!r}")


def make_options(model: str | None, options: Mapping[str, Any]) -> tuple[Options, str | None]:
    """(options, dtype or None). `model` may be a `.json` file of options, over which `options` go.

    Raises:
        ScorerError: a file that is none, an unknown option, a value that makes no sense.
    """
    given: dict[str, Any] = _read(Path(model).expanduser()) if model and model.endswith(".json") else {"model": model}
    given |= options
    dtype = given.pop("dtype", None)
    known = [field.name for field in fields(Options)]
    for name in given:
        if name not in known:
            raise ScorerError(f"scorer 'vlm-judge' has no option {name!r}; its options: {', '.join(known)}")
    return Options(**given), dtype


def read_key(variable: str | None) -> str | None:
    """The key in an environment variable. The message names the variable, never what is in it.

    Names have capitals only: whoever gives the key itself by mistake must not find it in a log.
    """
    if variable is None:
        return None
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", variable):
        raise ScorerError("vlm-judge: api_key_env must name an environment variable, in capitals like MY_API_KEY")
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ScorerError(f"vlm-judge: the environment variable {variable} is not set; it should hold the API key")
    if not (key.isascii() and key.isprintable()):
        raise ScorerError(f"vlm-judge: the environment variable {variable} holds no API key: it is no plain text")
    return key


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ScorerError(f"{path}: no such file of vlm-judge options") from None
    except (OSError, ValueError) as error:
        raise ScorerError(f"{path}: cannot be read as JSON ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise ScorerError(f"{path}: vlm-judge options are one JSON object")
    return content
