"""Where a suite's published files are: in a folder, a file of its own, or on the hub. Nothing is copied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from diffdpo.data.prompts import COLUMNS, read_rows, text_of
from diffdpo.errors import UserError

PROMPT = (*COLUMNS, "prompts", "Prompts")
"""Columns that published prompt sets have their prompts in."""


@dataclass(frozen=True)
class Source:
    """Published files: `files` are patterns of the file's path, the best one first."""

    files: tuple[str, ...]
    hub: str | None = None
    """The publisher's dataset on the hub, where there is one."""
    publisher: str = ""
    """Where a person finds the file."""


def locate(data: str | None, source: Source) -> Path:
    """The file of a source in `data` (a folder, the file itself, or a dataset on the hub) or at its publisher's.

    Raises:
        UserError: it is not there.
    """
    where = data or source.hub
    if where is None:
        raise UserError(f"name the file or its folder with --data: {source.files[0]} of {source.publisher}")
    path = Path(where)
    if path.is_file():
        return path
    if path.is_dir():
        inside = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
        return path / _best(where, inside, source)
    # A mistyped path, not an owner on the hub, where its first part is a folder here.
    if where.count("/") != 1 or where.startswith((".", "/", "~")) or path.parent.is_dir():
        raise UserError(f"--data {where}: no such file or folder, and no dataset name like `owner/name`")
    return _fetch(where, source)


def _best(where: str, names: Sequence[str], source: Source) -> str:
    for pattern in source.files:
        for name in names:
            if fnmatch(f"/{name}".lower(), f"*/{pattern}".lower()):
                return name
    raise UserError(f"--data {where}: has no {' or '.join(source.files)}")


def _fetch(dataset: str, source: Source) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    try:
        names = HfApi().list_repo_files(dataset, repo_type="dataset")
        return Path(hf_hub_download(dataset, _best(dataset, sorted(names), source), repo_type="dataset"))
    except UserError:
        raise
    except Exception as error:  # the hub client raises many kinds: offline, no such dataset, no access
        why = " ".join(str(error).split())[:160]
        hint = "give a folder or file with --data"
        raise UserError(f"dataset {dataset!r}: cannot be fetched from the hub ({why}); {hint}") from None


def read_cells(path: Path, kinds: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, dict[str, str]]]:
    """Each row's prompt, and its cells under the columns that `kinds` names, where the file has them.

    Args:
        kinds: name to give -> columns to look for.

    Raises:
        UserError: the file cannot be read, a row has no prompt, or a cell is empty.
    """
    for where, row in read_rows(path):
        columns: Any = {PROMPT[0]: row} if isinstance(row, str) else row
        if not isinstance(columns, Mapping):
            raise UserError(f"{path}: {where}: neither a text nor an object with a prompt")
        found = {
            kind: text_of(path, where, columns, names)
            for kind, names in kinds.items()
            if any(name in columns for name in names)
        }
        yield text_of(path, where, columns, PROMPT), found
