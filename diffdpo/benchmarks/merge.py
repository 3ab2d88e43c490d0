"""Parts of one run, made on several machines, put together as the run that one machine would have made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffdpo.benchmarks import pictures
from diffdpo.benchmarks.results import COMMAND, BenchRun, Row, read_part, read_run
from diffdpo.benchmarks.suite import PRODUCTS, finish
from diffdpo.errors import UserError
from diffdpo.progress import say
from diffdpo.runs import MANIFEST, State, check_claim, claimed, read_manifest, write_json

PART = ("part", "batch_size")
"""Settings that a part has and the whole has not."""
PLACE = ("images", "images_sha256", "model", "lora")
"""Settings that the parts may differ in: where things lie on a machine, whose content is a setting of its own, and
which of the given images it has."""


def merge_parts(folders: Sequence[str | Path], out: str | Path, *, suite: str) -> BenchRun:
    """Put the parts of a run together in `out`; the images are copied.

    Raises:
        UserError: one is no finished part of that suite, they are of different runs, or some images are in none or two.
    """
    parts, rows, settings = _read(folders, suite)
    title, scorers = str(parts[0].summary["title"]), parts[0].summary["scorers"]
    with claimed(out, COMMAND, settings, products=PRODUCTS) as run:
        if run.state != "complete":
            # What the parts were made with, not what puts them together.
            made = {"inputs": parts[0].manifest["inputs"], "versions": _versions(parts)}
            write_json(run.folder / MANIFEST, {**read_manifest(run.folder), **made})
            for part in parts:
                names = [row.image for row in part.rows]
                pictures.copy_images([part.folder / name for name in names], [run.folder / name for name in names])
            finish(run, title, rows, scorers)
    return read_run(out)


def check_parts(folders: Sequence[str | Path], out: str | Path, *, suite: str) -> State:
    """For a dry run: raise what `merge_parts` would raise, write nothing. Returns the state of `out`."""
    return check_claim(out, COMMAND, _read(folders, suite)[2])


def _read(folders: Sequence[str | Path], suite: str) -> tuple[list[BenchRun], list[Row], dict[str, Any]]:
    """The parts, all their rows in order, and the settings of the whole."""
    parts = [read_part(folder) for folder in folders]
    _check_same(parts, suite)
    rows = _all_rows(parts)
    return parts, rows, _settings(parts, rows)


def _check_same(parts: Sequence[BenchRun], suite: str) -> None:
    for part in parts:
        if "part" not in part.settings:
            raise UserError(f"{part.folder}: a whole run, not a part of one (made with --part)")
        if part.suite != suite:
            raise UserError(f"{part.folder}: a part of `bench {part.suite}`, not of `bench {suite}`")
        for key in sorted(parts[0].settings.keys() | part.settings.keys()):
            first, other = parts[0].settings.get(key), part.settings.get(key)
            if first != other and key not in ("part", *PLACE):
                both = f"{parts[0].folder} and {part.folder}"
                raise UserError(f"{both}: parts of different runs, {key} is {first!r} and {other!r}")
        if part.summary["scorers"] != parts[0].summary["scorers"]:
            raise UserError(f"{parts[0].folder} and {part.folder}: scored with other settings of the scorers")


def _all_rows(parts: Sequence[BenchRun]) -> list[Row]:
    rows: dict[int, Row] = {}
    for part in parts:
        for row in part.rows:
            if row.index in rows:
                raise UserError(f"{part.folder}: image {row.index} is in another part as well")
            rows[row.index] = row
    missing = [f"{index:05d}" for index in range(int(parts[0].settings["prompts"])) if index not in rows]
    if missing:
        there = ", ".join(str(part.settings["part"]) for part in parts)
        raise UserError(f"{len(missing)} images are in none of the parts {there}: {pictures.spell(missing)}")
    return [rows[index] for index in sorted(rows)]


def _settings(parts: Sequence[BenchRun], rows: Sequence[Row]) -> dict[str, Any]:
    settings = {key: value for key, value in parts[0].settings.items() if key not in PART}
    if "images" in settings:
        files = {row.index: part.folder / row.image for part in parts for row in part.rows}
        places = dict.fromkeys(str(part.settings["images"]) for part in parts)
        settings["images"] = ", ".join(places)
        settings["images_sha256"] = pictures.files_hash([files[row.index] for row in rows])
    return settings


def _versions(parts: Sequence[BenchRun]) -> Mapping[str, str]:
    """The versions that made the parts; both are told, and the user is, where two machines had others."""
    found: dict[str, list[str]] = {}
    for part in parts:
        for name, version in part.manifest["versions"].items():
            if version not in found.setdefault(name, []):
                found[name].append(version)
    others = [f"{name} {' and '.join(versions)}" for name, versions in found.items() if len(versions) > 1]
    if others:
        say(f"note: the parts were made with different versions ({'; '.join(others)}); images may differ in last bits")
    return {name: " and ".join(versions) for name, versions in found.items()}
