"""Damaged checkpoints are passed over, and it is said what follows."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffdpo.errors import UserError
from diffdpo.training import checkpoints
from diffdpo.training.image.runner import run_images
from diffdpo.training.optimizer_state import restore
from diffdpo.training.pieces import Pieces
from diffdpo.training.processes import new_accelerator


def save(folder: Path, step: int, tensors: dict[str, dict[str, torch.Tensor]] | None = None, keep: int = 2) -> None:
    checkpoints.save(
        folder,
        step,
        run="r",
        tensors=tensors or {"weights": {"00000": torch.ones(2)}},
        state={},
        keep=keep,
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


def test_a_torn_later_checkpoint_does_not_push_out_whole_ones(tmp_path, capsys):
    for step in (2, 9):
        save(tmp_path, step, keep=1)
    (tmp_path / "step-00000009" / "state.json").unlink()
    save(tmp_path, 3, keep=1)
    found = checkpoints.newest(tmp_path, "r")
    assert found is not None
    assert found.step == 3
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


def test_a_full_disk_is_told_in_one_line_and_leaves_what_there_was(tmp_path):
    save(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # no file may be longer, as on a full disk
    try:
        with pytest.raises(UserError, match=r"the checkpoint of step-00000002 cannot be written .* make room"):
            save(tmp_path, 2, {"weights": {"00000": torch.ones(100)}, "optimizer": {"00000.m": torch.ones(100_000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_tensors_come_back_as_they_were_kind_by_kind(tmp_path):
    weights = {"00000": torch.randn(3, 2), "00001": torch.tensor(4.0), "00002": torch.ones(2, dtype=torch.bfloat16)}
    save(tmp_path, 1, {"weights": weights, "average": {}, "optimizer": {"00000.step": torch.tensor(7.0)}})
    found = checkpoints.newest(tmp_path, "r")
    assert found is not None
    for expected, read in zip(weights.values(), found.exported, strict=True):
        assert read.dtype == expected.dtype
        assert torch.equal(read, expected)
    assert found.tensors["optimizer"].read("00000.step").item() == 7.0
    assert found.tensors["average"].names() == []


def test_rows_are_put_together_from_the_pieces_of_several_files(tmp_path):
    tensor = torch.arange(14.0).reshape(7, 2)
    save_file({"a@0": tensor[:3]}, tmp_path / "0")
    save_file({"a@3": tensor[3:6], "b@0": torch.ones(1)}, tmp_path / "1")
    save_file({"a@6": tensor[6:]}, tmp_path / "2")
    pieces = Pieces([tmp_path / name for name in "201"])
    assert torch.equal(pieces.read("a"), tensor)
    laid_out = pieces.read_like("a", torch.zeros(2, 7, dtype=torch.bfloat16).T)
    assert torch.equal(laid_out, tensor)
    assert laid_out.stride() == (1, 7)
    assert torch.equal(pieces.read_like("b", torch.zeros(9)), torch.ones(1))


def test_a_checkpoint_from_before_there_were_parts_is_read(tmp_path):
    weight = torch.nn.Parameter(torch.randn(3, 2))
    old, new = (torch.optim.AdamW([weight], lr=0.1, fused=True) for _ in range(2))
    weight.grad = torch.randn(3, 2)
    old.step()
    folder = tmp_path / "step-00000004"
    folder.mkdir()
    save_file({"00000": weight.detach()}, folder / "weights.safetensors")
    torch.save(old.state_dict(), folder / "optimizer.pt")
    (folder / "state.json").write_text("{}")
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    (folder / checkpoints.MARKER).write_text(json.dumps({"run": "r", "files": sizes}))
    found = checkpoints.newest(tmp_path, "r")
    assert found is not None
    assert torch.equal(found.exported[0], weight)
    restore(new, found.tensors["optimizer"], {})
    for key, value in old.state_dict()["state"][0].items():
        assert torch.equal(new.state_dict()["state"][0][key], value)


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
