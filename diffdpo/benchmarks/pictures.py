"""The images of a run: drawn from prompts and seeds, or taken over from a folder. Every file is written whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from diffdpo.data.png import encode_png
from diffdpo.data.prompts import read_prompts
from diffdpo.errors import UserError
from diffdpo.progress import progress
from diffdpo.runs import write_bytes

Draw = Callable[[Sequence[str], Sequence[int]], Sequence[Image.Image]]
"""Prompts and seeds -> one image for each."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
PROMPTS = "prompts.jsonl"
"""Where `diffdpo generate` says which prompt each image is of."""
_NAMED = 100
"""Names and ranges of names in an error; of the rest only the number is told."""


def draw_missing(
    paths: Sequence[Path], prompts: Sequence[str], seeds: Sequence[int], draw: Draw, batch_size: int
) -> None:
    """Draw the images that are not there or cannot be read, each as PNG at its path.

    A batch of which anything is missing is drawn again as a whole: the last bit of an image may depend on the batch
    it is drawn in, and a run that was stopped must end in the same images.
    """
    missing = [not readable(path) for path in paths]
    with progress("draw images", len(paths), missing.count(False)) as advance:
        for start in range(0, len(paths), batch_size):
            part = slice(start, start + batch_size)
            if not any(missing[part]):
                continue
            images = draw(prompts[part], seeds[part])
            for path, image, absent in zip(paths[part], images, missing[part], strict=True):
                if absent:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_bytes(path, encode_png(image))
                    advance()


def named_images(source: Path, names: Sequence[str]) -> list[Path]:
    """The images of a folder by their names; other files do not matter.

    Args:
        names: paths below `source` without the suffix. The last part is a number, which may be written shorter:
            `photo/00007` is also `photo/7.png`.

    Raises:
        UserError: naming all images that are missing, broken or there twice.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    found: dict[str, Path] = {}
    for folder in dict.fromkeys(name.rpartition("/")[0] for name in names):
        found |= _numbered(source / folder, folder)
    paths = [found.get(_key(name)) for name in names]
    missing = [name for name, path in zip(names, paths, strict=True) if path is None]
    broken = [name for name, path in zip(names, paths, strict=True) if path is not None and not readable(path)]
    faults = []
    if missing:
        faults.append(f"{len(missing)} of {len(names)} images are missing: {spell(missing)} (png, jpg or webp)")
    if broken:
        faults.append(f"{len(broken)} of {len(names)} images cannot be read: {spell(broken)}")
    if faults:
        raise UserError(f"{source}: {'; '.join(faults)}")
    return [path for path in paths if path is not None]


def check_drawn_for(source: Path, names: Sequence[str], prompts: Sequence[str]) -> None:
    """Raise UserError where the `prompts.jsonl` that `diffdpo generate` left says that the images are of other prompts.

    Args:
        names: of the images, as in `named_images`; only plain numbers have a line there.
    """
    if not (source / PROMPTS).is_file():
        return
    drawn = [prompt.text for prompt in read_prompts(source / PROMPTS, keep_duplicates=True)]
    for name, prompt in zip(names, prompts, strict=True):
        if name.isdecimal() and int(name) < len(drawn) and drawn[int(name)].split() != prompt.split():
            told = f"image {name} was drawn for {drawn[int(name)]!r}, and the suite's prompt is {prompt!r}"
            raise UserError(f"{source / PROMPTS}: {told}; draw the suite's prompts")


def _numbered(folder: Path, prefix: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() not in SUFFIXES or not path.stem.isdecimal():
            continue
        key = _key(f"{prefix}/{path.stem}" if prefix else path.stem)
        if key in found:
            raise UserError(f"{folder}: {found[key].name} and {path.name} are both image {int(path.stem)}")
        found[key] = path
    return found


def _key(name: str) -> str:
    """Equal for names that mean one image: the number without its zeros."""
    folder, _, number = name.rpartition("/")
    return f"{folder}/{int(number)}"


def spell(names: Sequence[str]) -> str:
    """All names, those that follow each other as a range: `photo/00003, photo/00007 to photo/00012`."""
    runs: list[list[str]] = []
    for name in sorted(names):
        folder, _, number = name.rpartition("/")
        if runs and runs[-1][-1].rpartition("/")[0] == folder and _number(runs[-1][-1]) + 1 == int(number):
            runs[-1].append(name)
        else:
            runs.append([name])
    told = [", ".join(run) if len(run) < 3 else f"{run[0]} to {run[-1]}" for run in runs]
    more = len(told) - _NAMED
    return ", ".join(told[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _number(name: str) -> int:
    return int(name.rpartition("/")[2])


def copy_images(sources: Sequence[Path], targets: Sequence[Path]) -> None:
    """Copy images, byte by byte."""
    for source, target in zip(sources, targets, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(target, source.read_bytes())


def files_hash(paths: Sequence[Path]) -> str:
    """SHA-256 over the contents of files in their order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def readable(path: Path) -> bool:
    """Whether there is a whole image."""
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):
        return False
    return True
