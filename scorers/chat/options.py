"""How a model is asked: options from keywords or a JSON file, checked before a server is asked."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from scorers.chat.cache import user_folder
from scorers.errors import ScorerError, first_line


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """What every judge that is asked in words has."""

    who: ClassVar[str]
    """The judge's name, for messages."""

    model: str | None = None
    """A hub name or local folder; with `endpoint`, the name by which the server knows the model."""
    endpoint: str | None = None
    """URL of an OpenAI-compatible API, such as `http://localhost:8000/v1`; None = a local model."""
    api_key_env: str | None = None
    """The environment variable that holds the key. The key itself is never a setting."""
    seed: int = 0
    """Sent to the endpoint, with temperature 0."""
    max_tokens: int = 64
    """The longest answer. A model that thinks aloud needs more."""
    request: Mapping[str, Any] | None = None
    """Further fields of the request to the endpoint, or others in place of ours; None leaves a field out."""
    asks: int = 3
    """How often a question is asked until the answer can be read."""
    workers: int = 8
    """Requests in flight."""
    max_retries: int = 5
    """How often a request is repeated after 429, 5xx, a timeout or a broken connection."""
    timeout: float = 120.0
    """Seconds a request may be silent."""
    cache: str | Path | None = "auto"
    """A folder for the answers, `auto` for one in the user's cache folder, None to keep none."""

    def __post_init__(self) -> None:
        """JSON files come with anything."""
        if not self.model or not isinstance(self.model, str):
            raise ScorerError(f"{self.who} needs model=: a hub name, a local folder, or a JSON file of options")
        self.check_whole({"asks": 1, "workers": 1, "max_retries": 0, "max_tokens": 1, "seed": None})
        self.check_texts(endpoint=True, api_key_env=True)
        if not isinstance(self.timeout, int | float) or not 0 < self.timeout < float("inf"):
            raise ScorerError(f"{self.who}: timeout must be a number of seconds above 0, not {self.timeout!r}")
        if not (self.cache is None or isinstance(self.cache, str | Path)):
            raise ScorerError(f"{self.who}: cache must be a folder, 'auto' or nothing, not {self.cache!r}")
        if self.request is not None and not isinstance(self.request, Mapping):
            raise ScorerError(f"{self.who}: request must be fields and values, not {self.request!r}")

    def check_whole(self, least: Mapping[str, int | None]) -> None:
        """Raises ScorerError unless these options are whole numbers, of at least what stands beside them."""
        for name, bound in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or (bound is not None and value < bound):
                wanted = "a whole number" if bound is None else f"a whole number of at least {bound}"
                raise ScorerError(f"{self.who}: {name} must be {wanted}, not {value!r}")

    def check_texts(self, **may_be_none: bool) -> None:
        """Raises ScorerError unless these options are texts."""
        for name, optional in may_be_none.items():
            value = getattr(self, name)
            if not (isinstance(value, str) or (value is None and optional)):
                raise ScorerError(f"{self.who}: {name} must be a text, not {value!r}")

    @property
    def cache_folder(self) -> Path | None:
        return user_folder() if self.cache == "auto" else None if self.cache is None else Path(self.cache).expanduser()


def read_key(variable: str | None, who: str) -> str | None:
    """The key in an environment variable. The message names the variable, never what is in it.

    Names have capitals only: whoever gives the key itself by mistake must not find it in a log.
    """
    if variable is None:
        return None
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", variable):
        raise ScorerError(f"{who}: api_key_env must name an environment variable, in capitals like MY_API_KEY")
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ScorerError(f"{who}: the environment variable {variable} is not set; it should hold the API key")
    if not (key.isascii() and key.isprintable()):
        raise ScorerError(f"{who}: the environment variable {variable} holds no API key: it is no plain text")
    return key


def read_options(path: Path, who: str) -> dict[str, Any]:
    """The options in a JSON file.

    Raises:
        ScorerError: it cannot be read, or is no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ScorerError(f"{path}: no such file of {who} options") from None
    except (OSError, ValueError) as error:
        raise ScorerError(f"{path}: cannot be read as JSON ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise ScorerError(f"{path}: {who} options are one JSON object")
    return content
