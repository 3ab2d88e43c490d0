"""The folder that a command leaves behind: what made it, whether it is whole, and how it is written without tearing.

A folder belongs to one set of settings. A step that finds its folder complete skips, one that finds it half done goes
on, and one that finds other settings refuses and says which differ.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import W_OK, X_OK, access
from pathlib import Path
from typing import Any, BinaryIO, Literal

from diffdpo.errors import UserError
from diffdpo.locks import alone
from diffdpo.progress import say

MANIFEST = "manifest.json"
UNREAD = "not read yet"
"""In the settings of a dry run, for what only the run itself will know: fits whatever a folder says there."""
_RECORDED = ("diffdpo", "torch", "diffusers", "transformers", "accelerate", "peft", "open_clip_torch", "numpy")


DONE = "{}: finished before with these settings; nothing to do"

State = Literal["new", "partial", "complete"]


@dataclass(frozen=True)
class Run:
    """A claimed run folder. `state` is what it was when it was claimed."""

    folder: Path
    state: State

    def finish(self, results: Mapping[str, Any] | None = None) -> None:
        """Mark the folder complete and record the results beside the settings."""
        manifest = read_json(self.folder / MANIFEST)
        write_json(self.folder / MANIFEST, {**manifest, "complete": True, "results": dict(results or {})})


def claim(folder: str | Path, command: str, settings: Mapping[str, Any], inputs: Sequence[str | Path] = ()) -> Run:
    """Take `folder` for a run of `command` with `settings`, creating it or going on with it.

    Args:
        settings: everything that decides the result, JSON values only. Differing settings are refused key by key.
        inputs: files to be recorded by name and SHA-256. They are not compared: what decides of them is a setting.

    Raises:
        UserError: the folder cannot be made, holds something else, or was made by another command or other settings.
    """
    folder = Path(folder)
    manifest = {
        "command": command,
        "complete": False,
        "settings": json.loads(json.dumps(settings, sort_keys=True)),
        "inputs": {Path(path).name: content_hash(path) for path in inputs},
        "versions": _versions(),
    }
    state = _state(folder, manifest)
    if state == "new":
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / MANIFEST, manifest)
    return Run(folder, state)


@contextmanager
def claimed(
    folder: str | Path,
    command: str,
    settings: Mapping[str, Any],
    inputs: Sequence[str | Path] = (),
    *,
    products: Sequence[str],
) -> Iterator[Run]:
    """`claim`, for this process alone. A run that fails before its first product gives the folder back.

    Args:
        products: patterns of the files that the run makes, seen from the folder. Half-written ones, which a killed
            run left, are removed; no other file is.

    Raises:
        UserError: as `claim`, or another process works in the folder.
    """
    folder = Path(folder)
    fresh = not folder.is_dir()
    if fresh:
        check_place(folder)
        folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        run = None
        try:
            run = claim(folder, command, settings, inputs)
            if run.state == "complete":
                say(DONE.format(folder))
            for pattern in products:
                for half in folder.glob(f"{pattern}.partial"):
                    half.unlink()
            yield run
        except (Exception, KeyboardInterrupt):
            if run is not None and run.state == "new":
                _give_back(folder, products)
            if fresh and not any(folder.iterdir()):
                folder.rmdir()
            raise


def check_claim(
    folder: str | Path, command: str, settings: Mapping[str, Any] | Callable[[], Mapping[str, Any]]
) -> State:
    """Raise what `claim` would raise, and leave everything as it is. Returns the state it would find.

    Args:
        settings: or what makes them, which is called only if there is a run to compare them with.
    """
    if callable(settings):
        settings = settings() if (Path(folder) / MANIFEST).exists() else {}
    return _state(Path(folder), {"command": command, "settings": json.loads(json.dumps(settings, sort_keys=True))})


def is_complete(folder: str | Path) -> bool:
    """Whether a run folder is there and finished."""
    return (Path(folder) / MANIFEST).exists() and bool(read_manifest(folder)["complete"])


def _state(folder: Path, manifest: Mapping[str, Any]) -> State:
    command = manifest["command"]
    if not (folder / MANIFEST).exists():
        check_place(folder)
        if folder.exists() and any(_foreign(path) for path in folder.iterdir()):
            raise UserError(f"{folder}: not empty and not made by diffdpo; name another output folder")
        return "new"
    old = read_manifest(folder)
    if old["command"] != command:
        raise UserError(
            f"{folder}: made by `diffdpo {old['command']}`, not by `diffdpo {command}`; name another folder"
        )
    differing = _differences(old["settings"], manifest["settings"])
    if differing:
        raise UserError(
            f"{folder}: made with other settings ({'; '.join(differing)}); name another folder or remove it"
        )
    return "complete" if old["complete"] else "partial"


def check_place(folder: Path) -> None:
    """Raise UserError if no folder can be made or filled there."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f"{nearest}: a file, not a folder; name another output folder")
    if not access(nearest, W_OK | X_OK):
        raise UserError(f"{nearest}: no permission to write there; name another output folder")


def _give_back(folder: Path, products: Sequence[str]) -> None:
    """Unless there is a product, take the manifest away, and the folders that were made for products."""
    if any(path for pattern in products for path in folder.glob(pattern)):
        return
    (folder / MANIFEST).unlink(missing_ok=True)
    for inner in {(folder / pattern).parent for pattern in products} - {folder}:
        if inner.is_dir() and not any(inner.iterdir()):
            inner.rmdir()


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a run folder.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder}: no {MANIFEST} there, so this is not the folder of a diffdpo run")
    manifest = read_json(path)
    if not isinstance(manifest, dict) or not {"command", "complete", "settings", "inputs"} <= manifest.keys():
        raise UserError(f"{path}: not a diffdpo manifest")
    return manifest


def read_json(path: str | Path) -> Any:
    """Parse a JSON file.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); the file is damaged") from None


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically, keys in the order given."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a whole file or nothing: to a temporary name, synced, then renamed."""
    with whole_file(path) as file:
        file.write(content)


@contextmanager
def whole_file(path: str | Path) -> Iterator[BinaryIO]:
    """As `write_bytes`, for content that comes piece by piece. An error on the way leaves nothing behind."""
    path = Path(path)
    temporary = path.with_name(path.name + ".partial")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename is None:
            error.filename = str(path)  # a full disk does not say what it was full for
        raise


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A whole folder or nothing: yields an empty one beside it, to fill, which takes its name at the end.

    Raises:
        UserError: `folder` is in use or cannot be made.
    """
    folder = Path(folder)
    check_place(folder)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: not empty; name another folder")
    folder = folder.absolute()
    temporary = folder.with_name(folder.name + ".diffdpo.partial")
    temporary.mkdir(parents=True, exist_ok=True)
    with alone(temporary):
        for left in temporary.iterdir():  # by a run that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        try:
            yield temporary
            os.replace(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def content_hash(path: str | Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files below a folder."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(path)).encode())
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _foreign(path: Path) -> bool:
    """Whether a file in a folder without a manifest is somebody's: a manifest that a kill cut short is not."""
    return path.name != MANIFEST + ".partial"


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b and not (b == UNREAD and a is not None):
            found.append(f"{prefix}{key}: there {_short(a)}, now {_short(b)}")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _versions() -> dict[str, str]:
    versions = {}
    for name in _RECORDED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
