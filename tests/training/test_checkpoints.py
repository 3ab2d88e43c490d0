"""Damaged checkpoints are passed over, and it is said what follows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from diffdpo.training import checkpoints
from diffdpo.training.processes import new_accelerator
from diffdpo.training.runner import run_images


def save(folder: Path, step: int, tensors: dict[str, dict[str, torch.Tensor]] | None = None) -> None:
    checkpoints.save(
        folder,
        step,
        run="r",
        tensors=tensors or {"weights": {"00000": torch.ones(2)}},
        state={},
        keep=2,
        accelerator=new_accelerator("fp32"),
    )


@pytest.mark.parametrize("marker", ["[]", "{}", '{"files": {}}', '{"files": 3, "run": "r"}', "no JSON"])
def test_a_marker_that_is_not_what_was_written_is_passed_over(tmp_path, capsys, marker):
    for step in (1, 2):
        save(tmp_path, step)
    (tmp_path / "step-00000002" / checkpoints.MARKER).write_text(marker)
    found = checkpoints.newest(tmp_path, "r")
    assert found is not None
    assert found.step == 1
    assert "step-00000002: torn" in capsys.readouterr().err


def test_a_run_with_no_whole_checkpoint_says_that_it_starts_anew(make_config, capsys):
    config = make_config()
    first = run_images(config)
    folder = Path(config.output)
    for marker in (folder / "checkpoints").glob(f"*/{checkpoints.MARKER}"):
        marker.unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    capsys.readouterr()
    assert run_images(config) == first
    said = capsys.readouterr().err
    assert "no whole checkpoint is left: training starts anew" in said
    assert "older checkpoint" not in said
