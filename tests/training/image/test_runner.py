"""Whole runs: resume to the bit, kill -9, torn and foreign checkpoints, accumulation."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from safetensors.torch import load_file

from diffdpo.errors import UserError
from diffdpo.models.stable_diffusion import StableDiffusion
from diffdpo.training import checkpoints, loop
from diffdpo.training.image.export import export_newest
from diffdpo.training.image.inputs import model_content
from diffdpo.training.image.runner import run_images
from diffdpo.training.processes import new_accelerator

SCRIPT = """
import sys, yaml, torch
torch.set_num_threads(1)
from diffdpo.config import DpoConfig, build
from diffdpo.training.image.runner import run_images
run_images(build(DpoConfig, yaml.safe_load(open(sys.argv[1]))))
"""


def weights(folder: Path | str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model" / "unet" / "diffusion_pytorch_model.safetensors")


def assert_same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def figures(folder: Path | str) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "pairs_per_second"} for row in rows]


def dump(config, path: Path) -> Path:
    import dataclasses

    import yaml

    path.write_text(yaml.safe_dump(dataclasses.asdict(config)))
    return path


def test_killed_run_ends_with_the_same_bits_and_metrics(make_config, tmp_path):
    whole = make_config(output=str(tmp_path / "whole"), training__steps=8)
    run_images(whole)
    killed = make_config(output=str(tmp_path / "killed"), training__steps=8)
    file = dump(killed, tmp_path / "killed.yaml")
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(file)], stderr=subprocess.DEVNULL)
    wait_for(tmp_path / "killed" / "checkpoints" / "step-00000002" / checkpoints.MARKER, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "model").exists()
    run_images(killed)
    assert_same_bits(weights(whole.output), weights(killed.output))
    assert figures(whole.output) == figures(killed.output)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    for _ in range(6000):  # a busy machine takes more than a minute to import torch
        if path.exists():
            return
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.05)
    raise AssertionError(f"{path} never came")


def test_complete_run_is_not_run_again(make_config):
    config = make_config()
    first = run_images(config)
    stamp = os.stat(Path(config.output) / "metrics.jsonl").st_mtime_ns
    assert run_images(config) == first
    assert os.stat(Path(config.output) / "metrics.jsonl").st_mtime_ns == stamp


def test_other_settings_are_refused_by_name(make_config):
    run_images(make_config())
    with pytest.raises(UserError, match=re.escape("loss.beta: there 500.0, now 600.0")):
        run_images(make_config(loss__beta=600.0))


@pytest.mark.parametrize(
    ("harm", "warning"),
    [
        (lambda content: content[:-10], "weights-00000.safetensors is missing or cut short"),
        (lambda content: bytes(len(content)), "damaged"),
    ],
    ids=["cut", "zeros"],
)
def test_torn_checkpoint_is_passed_over(make_config, tmp_path, capsys, harm, warning):
    whole = make_config(output=str(tmp_path / "whole"))
    run_images(whole)
    torn = make_config(output=str(tmp_path / "torn"))
    shutil.copytree(whole.output, torn.output)
    undo_finish(Path(torn.output))
    newest = Path(torn.output) / "checkpoints" / "step-00000006" / "weights-00000.safetensors"
    newest.write_bytes(harm(newest.read_bytes()))
    run_images(torn)
    assert warning in capsys.readouterr().err
    assert_same_bits(weights(whole.output), weights(torn.output))


def undo_finish(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    shutil.rmtree(folder / "model")


def test_run_that_died_after_its_last_checkpoint_is_finished(make_config):
    config = make_config()
    first = run_images(config)
    undo_finish(Path(config.output))
    assert run_images(config) == first
    assert weights(config.output)


def test_unusable_model_leaves_no_folder(make_config, tmp_path):
    config = make_config(model__path=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nowhere"):
        run_images(config)
    assert not Path(config.output).exists()


def test_a_folder_in_use_is_refused(make_config):
    from diffdpo.locks import alone

    config = make_config()
    Path(config.output).mkdir()
    with alone(Path(config.output)), pytest.raises(UserError, match="another diffdpo is working there"):
        run_images(config)
    assert run_images(config)["exported"] == "model"


def test_fp16_without_a_gpu_is_refused(make_config):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    config = make_config(training__precision="fp16")
    with pytest.raises(UserError, match=r"training\.precision: fp16 cannot be had here"):
        run_images(config)
    assert not Path(config.output).exists()


def test_each_run_of_a_process_has_its_own_precision():
    precisions = ("fp32", "bf16", "fp32")
    assert [new_accelerator(one).mixed_precision for one in precisions] == ["no", "bf16", "no"]


def test_bf16_starts_at_ln_2_in_training_and_evaluation(make_config, tmp_path):
    config = make_config(training__precision="bf16", training__steps=1)
    run_images(config)
    rows = figures(config.output)
    assert rows[0]["eval/loss"] == pytest.approx(0.693147, abs=5e-7)
    assert next(row["loss"] for row in rows if "loss" in row) == pytest.approx(0.693147, abs=5e-7)


def test_gradient_checkpointing_computes_blocks_again_and_changes_no_figure(make_config, tmp_path, monkeypatch):
    calls, forward = [], ResnetBlock2D.forward

    def counted(self, *inputs, **keywords):
        calls[-1] += torch.is_grad_enabled()
        return forward(self, *inputs, **keywords)

    monkeypatch.setattr(ResnetBlock2D, "forward", counted)
    losses = []
    for on in (False, True):
        calls.append(0)
        config = make_config(output=str(tmp_path / str(on)), training__gradient_checkpointing=on, training__steps=2)
        losses.append(run_images(config)["figures"]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    plain, checkpointed = calls
    assert 1.5 * plain < checkpointed <= 2 * plain


def test_newest_checkpoint_is_exported(make_config, tmp_path):
    config = make_config()
    run_images(config)
    folder, step = export_newest(Path(config.output), tmp_path / "out")
    assert step == 6
    assert_same_bits(weights(config.output), load_file(folder / "unet" / "diffusion_pytorch_model.safetensors"))


def test_an_export_that_was_cut_short_is_not_there_and_is_made_again(make_config, monkeypatch):
    config = make_config()
    plain = StableDiffusion.export

    def dying(self, folder, weights=None):
        plain(self, folder, weights)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(StableDiffusion, "export", dying)
        with pytest.raises(KeyboardInterrupt):
            run_images(config)
    folder = Path(config.output)
    assert not any(path.name.startswith("model") for path in folder.iterdir())
    (folder / "model").mkdir()
    (folder / "model" / "half").write_text("an older version wrote straight into it")
    run_images(config)
    assert weights(config.output)
    assert not (folder / "model" / "half").exists()


def test_an_image_that_cannot_be_opened_is_named(make_config, make_store, monkeypatch):
    from diffdpo.data.triplets import Triplet, TripletStore

    store = make_store(24)
    plain = TripletStore.__getitem__

    def spoilt(self, index) -> Triplet:
        return dataclasses.replace(plain(self, index), chosen=b"no image")

    monkeypatch.setattr(TripletStore, "__getitem__", spoilt)
    with pytest.raises(UserError, match="pair 'pair-0' has an image that cannot be opened"):
        run_images(make_config(store))


def test_a_single_file_is_known_by_its_content(tmp_path):
    file, moved = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    file.write_bytes(b"weights")
    moved.write_bytes(b"weights")
    assert model_content(str(file)) == model_content(str(moved))
    moved.write_bytes(b"others")
    assert model_content(str(file)) != model_content(str(moved))
    alone = model_content(str(file))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "model_index.json").write_text("{}")
    assert model_content(str(file)) != alone
    assert model_content("some/name-on-the-hub") == "some/name-on-the-hub"


@pytest.mark.parametrize(
    "pace", [{}, {"checkpoint_every": 3, "keep_checkpoints": 5, "log_every": 1, "evaluate_every": 1}]
)
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_stopped_run_goes_on_at_any_pace_to_the_same_bits(make_config, tmp_path, monkeypatch, optimizer, pace):
    whole, stopped = (
        make_config(output=str(tmp_path / name), training__optimizer=optimizer) for name in ("whole", "stopped")
    )
    run_images(whole)
    with monkeypatch.context() as patched:
        patched.setattr(loop._Training, "_step", dying_at(3))
        with pytest.raises(KeyboardInterrupt):
            run_images(stopped)
    run_images(dataclasses.replace(stopped, training=dataclasses.replace(stopped.training, **pace)))
    assert_same_bits(weights(whole.output), weights(stopped.output))


def dying_at(last: int):
    plain = loop._Training._step

    def step(self, number):
        if number == last:
            raise KeyboardInterrupt
        return plain(self, number)

    return step


def test_an_optimizer_that_cannot_be_had_leaves_no_folder(make_config):
    config = make_config(training__optimizer="adamw8bit")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="adamw8bit needs a GPU"):
            run_images(config)
        assert not Path(config.output).exists()


def test_checkpoint_of_another_run_is_refused(make_config, tmp_path):
    one = make_config(output=str(tmp_path / "one"))
    run_images(one)
    other = make_config(output=str(tmp_path / "other"), seed=1)
    run_images(other)
    undo_finish(Path(other.output))
    shutil.rmtree(Path(other.output) / "checkpoints")
    shutil.copytree(Path(one.output) / "checkpoints", Path(other.output) / "checkpoints")
    with pytest.raises(UserError, match="a checkpoint of another run"):
        run_images(other)


def test_accumulation_equals_one_big_batch(make_config, tmp_path):
    plain = {"training__ema": None, "training__steps": 2, "training__warmup_steps": 0}
    big = make_config(output=str(tmp_path / "big"), training__batch_size=4, **plain)
    small = make_config(output=str(tmp_path / "small"), training__batch_size=1, training__accumulation=4, **plain)
    run_images(big)
    run_images(small)
    assert_close(weights(big.output), weights(small.output), big.training.learning_rate)


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], rate: float) -> None:
    """Adam turns rounding of a vanishing gradient into a whole step: nearly all weights must agree closely."""
    differences = torch.cat([(a[key] - b[key]).abs().flatten() for key in a])
    assert (differences < 0.02 * rate).float().mean() > 0.995
    assert differences.max() < 4.5 * rate
