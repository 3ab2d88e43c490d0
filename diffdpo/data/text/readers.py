"""Files of text records: JSONL (gzipped too), Parquet, Arrow, and folders of them as `datasets` and hubs have them."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffdpo.data.text.records import Record
from diffdpo.data.text.rows import record_of
from diffdpo.errors import UserError
from diffdpo.progress import say
from diffdpo.runs import content_hash

Rows = Iterator[tuple[str, Any]]
"""Where a row stands ("line 7"), and the row."""

SPLITS = ("train", "test", "validation", "valid", "dev", "eval")
"""What a published data set's files or folders are called after."""


@dataclass(frozen=True)
class TextSource:
    """All records of some files, in their order."""

    path: Path
    files: tuple[Path, ...]
    records: tuple[Record, ...]

    def fingerprint(self) -> str:
        """SHA-256 over the files' contents."""
        return hashlib.sha256(" ".join(map(content_hash, self.files)).encode()).hexdigest()


def open_text(path: str | Path, split: str | None = None) -> TextSource:
    """Read a file, or all files of a folder or of one of its splits.

    Args:
        split: of a folder: only files whose name, or the name of a folder they are in, begins with it. None is
            `train` where there is such a file, else all.

    Raises:
        UserError: nothing of the kind is there, a file is damaged, a row is unfit; names file and row.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    files = _files(path, split)
    records = [record_of(f"{file}: {where}", _mapping(file, where, row)) for file in files for where, row in rows(file)]
    if not records:
        raise UserError(f"{path}: empty, there is no record in it")
    return TextSource(path, tuple(files), tuple(records))


def rows(file: Path) -> Rows:
    """Every row of a file with the place where it stands."""
    name = file.name.lower()
    if name.endswith((".jsonl", ".jsonl.gz")):
        return _jsonl(file)
    if name.endswith((".parquet", ".arrow")):
        return _table(file)
    raise UserError(f"{file}: not a kind of file that is known: .jsonl, .jsonl.gz, .parquet, .arrow, or a folder")


def _files(path: Path, split: str | None) -> list[Path]:
    if path.is_file():
        if split is not None:
            raise UserError(f"data.split: {path} is a file, which has no splits; leave the key out")
        return [path]
    kinds = (".jsonl", ".jsonl.gz", ".parquet", ".arrow")
    found = [file for file in sorted(path.rglob("*")) if file.name.lower().endswith(kinds) and file.is_file()]
    found = [file for file in found if not file.name.startswith(("cache-", "."))]
    if not found:
        raise UserError(f"{path}: no .jsonl, .jsonl.gz, .parquet or .arrow file in it")
    if split is None:
        return _training_files(path, found)
    chosen = [file for file in found if _is_of(path, file, split)]
    if not chosen:
        raise UserError(f"data.split: no file or folder in {path} is called {split}...; there: {_names(path, found)}")
    return chosen


def _training_files(path: Path, found: list[Path]) -> list[Path]:
    """Those of the split `train`, where the files are of several."""
    if not any(_is_of(path, file, split) for file in found for split in SPLITS[1:]):
        return found
    chosen = [file for file in found if _is_of(path, file, "train")]
    if chosen and len(chosen) < len(found):
        say(f"{path}: the split `train` is read, {len(chosen)} of {len(found)} files; data.split names another")
    return chosen or found


def _is_of(folder: Path, file: Path, split: str) -> bool:
    return any(part.startswith(split) for part in file.relative_to(folder).parts)


def _names(folder: Path, files: list[Path]) -> str:
    names = [str(file.relative_to(folder)) for file in files]
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _mapping(file: Path, where: str, row: Any) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise UserError(f"{file}: {where}: not an object with columns")
    return row


def _jsonl(file: Path) -> Rows:
    number = 0
    with gzip.open(file) if file.suffix.lower() == ".gz" else open(file, "rb") as lines:
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"line {number}", json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except json.JSONDecodeError as error:
            raise UserError(f"{file}: line {number}: not valid JSON ({error.msg})") from None
        except UnicodeDecodeError:
            raise UserError(f"{file}: line {number} is not UTF-8; convert the file to UTF-8") from None
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{file}: damaged after line {number} ({error})") from None


def _table(file: Path) -> Rows:
    import pyarrow as pa

    number = 0
    try:
        for batch in _batches(file):
            for row in batch.to_pylist():
                yield f"row {number}", row
                number += 1
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: damaged after {number} rows ({' '.join(str(error).split())[:120]})") from None


def _batches(file: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if file.suffix.lower() == ".parquet":
        with pq.ParquetFile(file) as table:
            yield from table.iter_batches()
        return
    with pa.memory_map(str(file)) as source:
        try:
            yield from pa.ipc.open_stream(source)  # what `datasets` writes
        except pa.ArrowInvalid:
            source.seek(0)
            whole = pa.ipc.open_file(source)
            for number in range(whole.num_record_batches):
                yield whole.get_batch(number)
