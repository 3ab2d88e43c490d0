"""Who chose the pairs that a measured model was trained on, found from the run that measured it."""

from __future__ import annotations

from pathlib import Path

from diffdpo.benchmarks.results import BenchRun
from diffdpo.runs import MANIFEST, read_manifest


def training_run(run: BenchRun) -> Path | None:
    """The folder of the training run that left the model or the LoRA that was measured, if it is there still."""
    for key in ("lora", "model"):
        path = run.settings.get(key)
        for folder in Path(path).parents if path and Path(path).exists() else ():
            if (folder / MANIFEST).is_file():
                return folder if read_manifest(folder)["command"] == "train" else None
    return None


def labelers(training: Path) -> tuple[str, ...]:
    """The scorers that chose a training run's pairs, as its manifest has them; none if it does not tell."""
    names = read_manifest(training).get("results", {}).get("labelers", ())
    return tuple(dict.fromkeys(part for name in names for part in str(name).split("+")))


def labelers_of(a: BenchRun, b: BenchRun) -> tuple[str, ...]:
    """Those of the scorers of both runs that are known to have chosen the training pairs of either model."""
    folders = [folder for run in (a, b) if (folder := training_run(run))]
    known = {name for folder in folders for name in labelers(folder)}
    return tuple(name for name in a.scorers if name in known)
