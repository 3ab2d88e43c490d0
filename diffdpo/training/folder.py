"""A training run's folder: taken for one set of settings, worked in alone, closed with its results."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from accelerate import Accelerator, PartialState

from diffdpo.config import Config
from diffdpo.errors import UserError
from diffdpo.locks import alone
from diffdpo.progress import say
from diffdpo.runs import (
    DONE,
    MANIFEST,
    check_claim,
    claim,
    is_complete,
    read_json,
    read_manifest,
    whole_folder,
    write_json,
)
from diffdpo.training.checkpoints import Checkpoint, newest, steps
from diffdpo.training.guard import all_finite
from diffdpo.training.loop import Outcome
from diffdpo.training.shares import Shares, check_step, in_one

CONFIG = "config.json"
"""The whole config of a run, paths included, beside the manifest."""


PACE = ("checkpoint_every", "keep_checkpoints", "log_every", "evaluate_every", "prefetch")
LATER = {"timesteps": "uniform", "noise": "independent", "compile": False}
"""Keys of the `training` section that there were not from the beginning, with what changes nothing."""


def finished(folder: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """What a finished run of these settings left; None if it is to be started or gone on with.

    Raises:
        UserError: the folder holds something else.
    """
    there = _step_of(folder)
    if there is not None:
        check_step(folder, there, settings["training"]["batch_size"])
    check_claim(folder, "train", settings)
    if not is_complete(folder):
        return None
    if PartialState().is_main_process:
        say(DONE.format(folder))
    return dict(read_manifest(folder)["results"])


def work_in(
    config: Config,
    settings: dict[str, Any],
    accelerator: Accelerator,
    *,
    train: Callable[[Path], Outcome],
    export: Callable[[Path, Outcome], dict[str, Any]],
) -> dict[str, Any]:
    """Do a run's work in its folder, unless another process has finished it meanwhile. Returns the results.

    Args:
        settings: what decides the run's result.
        train: called with the folder in every process.
        export: called in the main process with the folder and what `train` returned; writes what the user loads and
            returns the results to record.
    """
    output = Path(config.output)
    with ExitStack() as held:
        if accelerator.is_main_process:
            output.mkdir(parents=True, exist_ok=True)
            held.enter_context(alone(output))
        with accelerator.main_process_first():
            run = claim(output, "train", settings)
        if run.state == "complete":  # by another process, while this one was loading
            return dict(read_manifest(output)["results"])
        if accelerator.is_main_process:
            write_json(output / CONFIG, dataclasses.asdict(config))
        outcome = train(output)
        if accelerator.is_main_process:
            run.finish(export(output, outcome))
        accelerator.wait_for_everyone()
    return dict(read_manifest(output)["results"])


def write_whole(folder: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a folder that has its name only once it is whole. One that an earlier try left is replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    with whole_folder(folder) as place:
        write(place)


def lasting(outcome: Outcome) -> dict[str, float]:
    """The last figures, without the one that no two runs share."""
    return {key: value for key, value in outcome.figures.items() if key != "pairs_per_second"}


def read_run(folder: Path, out: Path, step: int | None = None) -> tuple[dict[str, Any], Checkpoint]:
    """A run's config, as read from JSON, and its newest checkpoint, or that of `step`, to be exported to `out`.

    Raises:
        UserError: `folder` is no training run or has no such checkpoint, or `out` is in use.
    """
    manifest = read_manifest(folder)
    if manifest["command"] != "train":
        raise UserError(f"{folder}: made by `diffdpo {manifest['command']}`; only a training run has weights to export")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: not empty; name another folder")
    checkpoint = newest(folder / "checkpoints", run_name(manifest["settings"]), step=step)
    if checkpoint is None:
        there = ", ".join(map(str, steps(folder / "checkpoints"))) or "none"
        which = "yet" if step is None else f"of step {step}; there: {there}"
        raise UserError(f"{folder}: no whole checkpoint in it {which}")
    if not all_finite(checkpoint.exported):
        which = "newest checkpoint" if step is None else f"checkpoint of step {step}"
        raise UserError(f"{folder}: the weights of its {which} are not finite, so there is nothing to export")
    return read_json(folder / CONFIG), checkpoint


def method_of(folder: Path) -> str | None:
    """The `method:` of a run's config; None where there is no config to read."""
    method: str | None = _key_of(folder, "method")
    return method


def modality_of(folder: Path) -> str:
    """`text` or `image`, which a run's config says or means."""
    return str(_key_of(folder, "modality") or "image")


def training_of(folder: Path) -> dict[str, Any]:
    """The `training` section that a run was last started with, settled; empty where there is none to read."""
    return dict(_key_of(folder, "training") or {})


def record_shares(folder: Path, shares: Shares) -> None:
    """Keep in a run's config how its steps are shared out from now on."""
    config = read_json(folder / CONFIG)
    training = {**config["training"], "batch_size": shares.size, "accumulation": shares.accumulation}
    write_json(folder / CONFIG, {**config, "training": training})


def _key_of(folder: Path, key: str) -> Any:
    path = folder / CONFIG
    return read_json(path).get(key) if path.is_file() else None


def without_pace(training: dict[str, Any]) -> dict[str, Any]:
    """The `training` section less what may be another when a run goes on: the keys that say how often it writes,
    which move no weight, and how a step's pairs are shared out, of which only the number is kept; and less the keys of
    `LATER` that change nothing, so that runs made before there were such keys still go on."""
    kept = {key: value for key, value in in_one(training).items() if key not in PACE}
    return {key: value for key, value in kept.items() if key not in LATER or value != LATER[key]}


def _step_of(folder: Path) -> int | None:
    """Pairs per step that a training run was started with; None if there is no such run."""
    if not (folder / MANIFEST).exists():
        return None
    training = read_manifest(folder)["settings"].get("training", {})
    return training["batch_size"] * training["accumulation"] if "batch_size" in training else None


def run_name(settings: dict[str, Any]) -> str:
    """A short name of everything that decides a run's result."""
    return content_of(settings)


def content_of(value: Any) -> str:
    """A short name of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
