"""Whole runs: resume to the bit, kill -9, torn and foreign checkpoints, two processes, accumulation."""

from __future__ import annotations

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
from safetensors.torch import load_file

from diffdpo.errors import UserError
from diffdpo.training import checkpoints
from diffdpo.training.runner import export_newest, run_dpo

SCRIPT = """
import sys, yaml, torch
torch.set_num_threads(1)
from diffdpo.config import DpoConfig, build
from diffdpo.training.runner import run_dpo
run_dpo(build(DpoConfig, yaml.safe_load(open(sys.argv[1]))))
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
    run_dpo(whole)
    killed = make_config(output=str(tmp_path / "killed"), training__steps=8)
    file = dump(killed, tmp_path / "killed.yaml")
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(file)], stderr=subprocess.DEVNULL)
    wait_for(tmp_path / "killed" / "checkpoints" / "step-00000002" / checkpoints.MARKER, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "model").exists()
    run_dpo(killed)
    assert_same_bits(weights(whole.output), weights(killed.output))
    assert figures(whole.output) == figures(killed.output)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    for _ in range(1200):
        if path.exists():
            return
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.05)
    raise AssertionError(f"{path} never came")


def test_complete_run_is_not_run_again(make_config):
    config = make_config()
    first = run_dpo(config)
    stamp = os.stat(Path(config.output) / "metrics.jsonl").st_mtime_ns
    assert run_dpo(config) == first
    assert os.stat(Path(config.output) / "metrics.jsonl").st_mtime_ns == stamp


def test_other_settings_are_refused_by_name(make_config):
    run_dpo(make_config())
    with pytest.raises(UserError, match=re.escape("loss.beta: there 500.0, now 600.0")):
        run_dpo(make_config(loss__beta=600.0))


@pytest.mark.parametrize(
    ("harm", "warning"),
    [
        (lambda content: content[:-10], "weights.safetensors is missing or cut short"),
        (lambda content: bytes(len(content)), "damaged"),
    ],
    ids=["cut", "zeros"],
)
def test_torn_checkpoint_is_passed_over(make_config, tmp_path, capsys, harm, warning):
    whole = make_config(output=str(tmp_path / "whole"))
    run_dpo(whole)
    torn = make_config(output=str(tmp_path / "torn"))
    shutil.copytree(whole.output, torn.output)
    undo_finish(Path(torn.output))
    newest = Path(torn.output) / "checkpoints" / "step-00000006" / "weights.safetensors"
    newest.write_bytes(harm(newest.read_bytes()))
    run_dpo(torn)
    assert warning in capsys.readouterr().err
    assert_same_bits(weights(whole.output), weights(torn.output))


def undo_finish(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    shutil.rmtree(folder / "model")


def test_run_that_died_after_its_last_checkpoint_is_finished(make_config):
    config = make_config()
    first = run_dpo(config)
    undo_finish(Path(config.output))
    assert run_dpo(config) == first
    assert weights(config.output)


def test_unusable_model_leaves_no_folder(make_config, tmp_path):
    config = make_config(model__path=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nowhere"):
        run_dpo(config)
    assert not Path(config.output).exists()


def test_a_folder_in_use_is_refused(make_config):
    from diffdpo.locks import alone

    config = make_config()
    Path(config.output).mkdir()
    with alone(Path(config.output)), pytest.raises(UserError, match="another diffdpo is working there"):
        run_dpo(config)
    assert run_dpo(config)["exported"] == "model"


def test_fp16_without_a_gpu_is_refused(make_config):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    config = make_config(training__precision="fp16")
    with pytest.raises(UserError, match=r"training\.precision: fp16 cannot be had here"):
        run_dpo(config)
    assert not Path(config.output).exists()


def test_bf16_starts_at_ln_2_in_training_and_evaluation(make_config, tmp_path):
    config = make_config(training__precision="bf16", training__steps=1)
    # A process of its own: accelerate settles on one precision per process.
    subprocess.run([sys.executable, "-c", SCRIPT, str(dump(config, tmp_path / "bf16.yaml"))], check=True)
    rows = figures(config.output)
    assert rows[0]["eval/loss"] == pytest.approx(0.693147, abs=5e-7)
    assert next(row["loss"] for row in rows if "loss" in row) == pytest.approx(0.693147, abs=5e-7)


def test_gradient_checkpointing_changes_no_figure(make_config, tmp_path):
    runs = [
        make_config(output=str(tmp_path / str(on)), training__gradient_checkpointing=on, training__steps=2)
        for on in (False, True)
    ]
    plain, checkpointed = (run_dpo(config)["figures"]["loss"] for config in runs)
    assert plain == pytest.approx(checkpointed, rel=1e-4)


def test_newest_checkpoint_is_exported(make_config, tmp_path):
    config = make_config()
    run_dpo(config)
    folder, step = export_newest(Path(config.output), tmp_path / "out")
    assert step == 6
    assert_same_bits(weights(config.output), load_file(folder / "unet" / "diffusion_pytorch_model.safetensors"))


def test_checkpoint_of_another_run_is_refused(make_config, tmp_path):
    one = make_config(output=str(tmp_path / "one"))
    run_dpo(one)
    other = make_config(output=str(tmp_path / "other"), seed=1)
    run_dpo(other)
    undo_finish(Path(other.output))
    shutil.rmtree(Path(other.output) / "checkpoints")
    shutil.copytree(Path(one.output) / "checkpoints", Path(other.output) / "checkpoints")
    with pytest.raises(UserError, match="a checkpoint of another run"):
        run_dpo(other)


def test_accumulation_equals_one_big_batch(make_config, tmp_path):
    plain = {"training__ema": None, "training__steps": 2, "training__warmup_steps": 0}
    big = make_config(output=str(tmp_path / "big"), training__batch_size=4, **plain)
    small = make_config(output=str(tmp_path / "small"), training__batch_size=1, training__accumulation=4, **plain)
    run_dpo(big)
    run_dpo(small)
    assert_close(weights(big.output), weights(small.output), big.training.learning_rate)


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], rate: float) -> None:
    """Adam turns rounding of a vanishing gradient into a whole step: nearly all weights must agree closely."""
    differences = torch.cat([(a[key] - b[key]).abs().flatten() for key in a])
    assert (differences < 0.02 * rate).float().mean() > 0.995
    assert differences.max() < 4.5 * rate


def test_two_processes_equal_one(make_config, tmp_path):
    plain = {"training__ema": None, "training__steps": 2, "training__warmup_steps": 0}
    one = make_config(output=str(tmp_path / "one"), training__batch_size=4, **plain)
    run_dpo(one)
    two = make_config(output=str(tmp_path / "two"), training__batch_size=2, **plain)
    script, file = tmp_path / "script.py", dump(two, tmp_path / "two.yaml")
    script.write_text(SCRIPT)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [sys.executable, *command, str(script), str(file)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert_close(weights(one.output), weights(two.output), one.training.learning_rate)
    a, b = figures(one.output), figures(two.output)
    assert [row["loss"] for row in a if "loss" in row] == pytest.approx(
        [row["loss"] for row in b if "loss" in row], rel=1e-4
    )
