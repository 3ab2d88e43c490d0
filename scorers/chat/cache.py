"""Answers on disk, one small file each, named by the hash of everything that decides the answer.

A file appears whole, by rename, so processes may share a folder and may be killed; one that cannot be read, whatever
happened to it, is asked for again. Plain files do this in a few lines and can be looked at, copied and deleted; a
database library would be a dependency more. They hold answers: no prompt, no image, no key.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from scorers.chat.answers import Answer
from scorers.errors import ScorerError, first_line

_FORMAT = 1
"""Part of every key: to be raised when answers are read in another way."""


def user_folder() -> Path:
    """`$XDG_CACHE_HOME/diffdpo/vlm`, or that below `~/.cache`. The standard has a relative XDG_CACHE_HOME ignored."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "diffdpo" / "vlm"


def key(asked: Mapping[str, Any], question: list[Any]) -> str:
    """The name of an answer: SHA-256 of who is asked, how, and what. JSON values only."""
    content = json.dumps([_FORMAT, asked, question], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


class AnswerCache:
    """A folder of answers; with None it forgets everything."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        if folder is not None:
            self._make(folder)

    def get(self, name: str) -> Answer | None:
        """The answer kept under `name`, if there is a whole one."""
        if self.folder is None:
            return None
        try:
            content = json.loads(self._path(self.folder, name).read_bytes())
            answer = Answer(float(content["value"]), str(content["text"]))
        except (OSError, ValueError, TypeError, KeyError):  # missing, cut short, or somebody else's file
            return None
        return answer if math.isfinite(answer.value) else None

    def put(self, name: str, answer: Answer) -> None:
        """Keep `answer`. Not synced to the disk: what a power cut spoils is asked for again."""
        if self.folder is None:
            return
        path = self._path(self.folder, name)
        self._make(path.parent)
        content = json.dumps({"value": answer.value, "text": answer.text}).encode()
        # A name of its own for every writer: two may have the same answer at the same time.
        temporary = path.with_name(f".{uuid4().hex}.partial")
        try:
            temporary.write_bytes(content)
            os.replace(temporary, path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise self._unusable(path.parent, error) from error

    @staticmethod
    def _path(folder: Path, name: str) -> Path:
        return folder / name[:2] / f"{name}.json"

    def _make(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(folder, error) from error

    @staticmethod
    def _unusable(folder: Path, error: OSError) -> ScorerError:
        why = first_line(error)
        return ScorerError(f"answers cannot be kept in {folder} ({why}): give cache= another folder, or None")
