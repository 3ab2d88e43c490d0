"""Real second processes over gloo: DDP and FSDP2 learn what one process learns, and go on from its checkpoints.

Starting processes costs seconds, so one pair of them does all runs but one, and another pair is killed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from diffdpo.errors import UserError
from diffdpo.training import checkpoints, shares
from diffdpo.training.image.dpo import DiffusionDpo
from diffdpo.training.image.export import export_newest
from diffdpo.training.image.runner import run_images

ROOT = Path(__file__).parents[2]

WORKER = """
import os, sys, torch, yaml
torch.set_num_threads(1)
from accelerate.state import AcceleratorState
from diffdpo.config import DpoConfig, build
from diffdpo.training.image.runner import run_images
from tests.training.test_scale_out import poison, stop
for job in yaml.safe_load(open(sys.argv[1])):
    if job["stopped"]:
        if os.environ["RANK"] == "0":
            stop(job["stopped"], job["config"]["output"])
        torch.distributed.barrier()
    AcceleratorState._reset_state()
    os.environ.pop("ACCELERATE_USE_FSDP", None)
    os.environ.update(job["environment"])
    with poison(job["poisoned"]):
        run_images(build(DpoConfig, job["config"]))
"""

SHARDED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
}

PLAIN = {"training__steps": 4, "training__warmup_steps": 0, "training__log_every": 1, "training__evaluate_every": 2}


@contextmanager
def poison(on: bool) -> Iterator[None]:
    """Within, if `on`, a step that sees pair 0 has a loss of NaN with a finite gradient."""
    plain = DiffusionDpo.loss

    def loss(recipe, network, examples):
        value, figures = plain(recipe, network, examples)
        return value + (float("nan") if any(index == 0 for index, _ in examples) else 0.0), figures

    with pytest.MonkeyPatch.context() as patched:
        if on:
            patched.setattr(DiffusionDpo, "loss", loss)
        yield


def launch(command: list[str], **environment: str) -> subprocess.Popen[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "FSDP_"))}
    return subprocess.Popen(
        [sys.executable, *command],
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**inherited, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment},
    )


def weights(config) -> dict[str, torch.Tensor]:
    folder = Path(config.output)
    if (folder / "lora").exists():
        return load_file(folder / "lora" / "pytorch_lora_weights.safetensors")
    return load_file(folder / "model" / "unet" / "diffusion_pytorch_model.safetensors")


def logged(config, key: str) -> list[float]:
    lines = (Path(config.output) / "metrics.jsonl").read_text().splitlines()
    return [row[key] for row in map(json.loads, lines) if key in row]


def assert_close(a, b) -> None:
    """Adam turns rounding of a vanishing gradient into a whole step: nearly all weights must agree closely."""
    rate = a.training.learning_rate
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    differences = torch.cat([(left[key] - right[key]).abs().flatten() for key in left])
    assert (differences < 0.02 * rate).float().mean() > 0.99
    assert differences.max() < 4.5 * rate
    assert logged(a, "loss") == pytest.approx(logged(b, "loss"), rel=1e-3)
    assert logged(a, "grad_norm") == pytest.approx(logged(b, "grad_norm"), rel=1e-3)
    assert logged(a, "eval/loss") == pytest.approx(logged(b, "eval/loss"), rel=1e-3)


def assert_same_bits(a, b) -> None:
    left, right = weights(a), weights(b)
    assert all(torch.equal(left[key], right[key]) for key in left)


def stop(run: str, output: str) -> None:
    """The run as it was after its second step, in another folder."""
    shutil.copytree(run, output)
    for late in ("checkpoints/step-00000004", "model"):
        shutil.rmtree(Path(output) / late)
    manifest = json.loads((Path(output) / "manifest.json").read_text())
    (Path(output) / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))


def job(config, *, sharded: bool = False, poisoned: bool = False, stopped=None) -> dict[str, object]:
    """A run of the pair, from the start or from the second step of another run."""
    return {
        "config": dataclasses.asdict(config),
        "environment": SHARDED if sharded else {},
        "poisoned": poisoned,
        "stopped": stopped and stopped.output,
    }


def in_a_pair(folder: Path, *jobs: dict[str, object]) -> None:
    """Do runs one after the other, in two processes."""
    file, script = folder / "jobs.yaml", folder / "worker.py"
    script.write_text(WORKER)
    file.write_text(yaml.safe_dump(list(jobs)))
    process = launch(["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), str(file)])
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors[-4000:]


def test_a_pair_of_processes_learns_what_one_learns(make_config, tmp_path):
    def made(name, **changes):
        return make_config(output=str(tmp_path / name), **{**PLAIN, **changes})

    full = made("full")
    lora = made("lora", lora__rank=2, model__reference="adapter")
    poisoned = made("poisoned", training__ema=None)
    for config in (full, lora):
        run_images(config)
    with poison(True):
        run_images(poisoned)

    def on_two(name, config, batch_size=2, accumulation=1):
        training = dataclasses.replace(config.training, batch_size=batch_size, accumulation=accumulation)
        return dataclasses.replace(config, training=training, output=str(tmp_path / name))

    ddp, ddp_poisoned = on_two("ddp", full), on_two("ddp-poisoned", poisoned)
    parted, parted_lora = on_two("parted", full, 1, 2), on_two("parted-lora", lora)
    parted_cached = on_two("parted-cached", made("", lora__rank=2, model__reference="cached"))
    parted_poisoned = on_two("parted-poisoned", poisoned)
    went_on, again = on_two("went-on", full), on_two("again", full, 1, 2)
    in_a_pair(
        tmp_path,
        job(ddp),
        job(ddp_poisoned, poisoned=True),
        job(parted, sharded=True),
        job(parted_lora, sharded=True),
        job(parted_cached, sharded=True),
        job(parted_poisoned, sharded=True, poisoned=True),
        job(went_on, sharded=True, stopped=full),
        job(again, sharded=True, stopped=parted),
    )

    for one, two in ((full, ddp), (full, parted), (lora, parted_lora), (lora, parted_cached), (full, went_on)):
        assert_close(one, two)
    assert_same_bits(parted, again)
    assert 0 < logged(poisoned, "skipped")[-1] < 4
    for two in (ddp_poisoned, parted_poisoned):
        assert logged(two, "skipped") == logged(poisoned, "skipped")
        assert_close(poisoned, two)

    assert_written_in_parts(Path(parted.output))
    export_newest(Path(parted.output), tmp_path / "exported")
    exported = load_file(tmp_path / "exported" / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(exported[key], weight) for key, weight in weights(parted).items())


def assert_written_in_parts(run: Path) -> None:
    """Every process wrote about half of the weights, and together they wrote each row once."""
    newest = sorted((run / "checkpoints").iterdir())[-1]
    for kind in ("weights", "average", "optimizer"):
        files = sorted(newest.glob(f"{kind}-*.safetensors"))
        assert [file.name for file in files] == [f"{kind}-0000{rank}.safetensors" for rank in range(2)]
        sizes = [sum(tensor.numel() for tensor in load_file(file).values()) for file in files]
        assert 0.3 < sizes[0] / sum(sizes) < 0.7
    with safe_open(newest / "weights-00001.safetensors", "pt") as file:
        assert any(not key.endswith("@0") for key in file.keys())  # noqa: SIM118
    marked = json.loads((newest / checkpoints.MARKER).read_text())["files"]
    assert marked == {p.name: p.stat().st_size for p in newest.iterdir() if p.name != checkpoints.MARKER}


def test_killed_on_two_processes_it_goes_on_with_one(make_config, tmp_path):
    """By `accelerate launch` and the config that is shipped; both processes are killed at once."""
    full = make_config(output=str(tmp_path / "full"), **PLAIN)
    run_images(full)
    killed = dataclasses.replace(
        full, output=str(tmp_path / "killed"), training=dataclasses.replace(full.training, batch_size=2)
    )
    (tmp_path / "killed.yaml").write_text(yaml.safe_dump({"method": "dpo", **dataclasses.asdict(killed)}))
    launcher = ["-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/fsdp2.yaml"]
    command = [
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
        "-m",
        "diffdpo",
        "train",
        str(tmp_path / "killed.yaml"),
    ]
    process = launch([*launcher, *command])
    marker = Path(killed.output) / "checkpoints" / "step-00000002" / checkpoints.MARKER
    while not marker.exists():
        assert process.poll() is None, process.stderr.read()[-4000:]
        time.sleep(0.02)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) == 2
    for one in [*family, psutil.Process(process.pid)]:
        one.kill()
    process.communicate()
    assert not (Path(killed.output) / "model").exists()
    with pytest.raises(UserError, match=r"made with 4 pairs per step, now 2; training.batch_size times .* must be 4"):
        run_images(killed)
    alone = dataclasses.replace(killed, training=dataclasses.replace(full.training, batch_size=1, accumulation=4))
    run_images(alone)
    assert_close(full, alone)


OR = ", or training.pairs_per_step 12"


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (1, "training.batch_size times training.accumulation must be 12" + OR),
        (4, "with 4 processes training.batch_size times training.accumulation must be 3" + OR),
        (5, "5 processes cannot share them evenly; start 1 or 2 or 3 or 4 or 6"),
    ],
)
def test_another_number_of_pairs_per_step_says_what_to_set(monkeypatch, n, words):
    monkeypatch.setenv("WORLD_SIZE", str(n))
    with pytest.raises(UserError, match=f"^run: made with 12 pairs per step, now 8; {words}$"):
        shares.check_step("run", 12, 8)
