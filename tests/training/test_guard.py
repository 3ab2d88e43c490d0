"""Steps that are not finite are left out and counted; a row of them, or broken weights, end the run."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from safetensors.torch import load_file

from diffdpo.errors import UserError
from diffdpo.training import loop
from diffdpo.training.guard import Skips, all_finite, not_finite, spoil_gradient, step_unless
from diffdpo.training.image.dpo import DiffusionDpo
from diffdpo.training.image.export import export_newest
from diffdpo.training.image.runner import run_images
from diffdpo.training.processes import new_accelerator


def weights(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model" / "unet" / "diffusion_pytorch_model.safetensors")


def lines(folder: str) -> list[dict[str, float]]:
    """metrics.jsonl as strict JSON, without what no two runs share."""
    rows = []
    for line in (Path(folder) / "metrics.jsonl").read_text().splitlines():
        rows.append(json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} in metrics.jsonl")))
    return [{key: value for key, value in row.items() if key != "pairs_per_second"} for row in rows]


@pytest.fixture
def poisoned(monkeypatch):
    """Steps that see the first pair have a loss of NaN, the others a loss as always."""
    plain = DiffusionDpo.loss

    def loss(self, network, examples):
        value, figures = plain(self, network, examples)
        factor = float("nan") if any(index == 0 for index, _ in examples) else 1.0
        return value * factor, {**figures, "loss": figures["loss"] * factor}

    monkeypatch.setattr(DiffusionDpo, "loss", loss)


def test_a_step_that_is_not_finite_is_left_out_and_counted(make_config, poisoned):
    config = make_config(training__steps=8)
    results = run_images(config)
    assert all_finite(list(weights(config.output).values()))
    logged = [row for row in lines(config.output) if "lr" in row or "skipped" in row]
    assert 0 < logged[-1]["skipped"] < 8
    assert results["figures"]["skipped"] == logged[-1]["skipped"]
    assert results["figures"]["loss"] < 10


def test_a_run_with_skipped_steps_goes_on_to_the_same_bits(make_config, poisoned, tmp_path, monkeypatch):
    whole, stopped = (make_config(output=str(tmp_path / name), training__steps=8) for name in ("whole", "stopped"))
    run_images(whole)
    plain = loop._Training._step

    def dying(self, step):
        if step == 5:
            raise KeyboardInterrupt
        return plain(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(loop._Training, "_step", dying)
        with pytest.raises(KeyboardInterrupt):
            run_images(stopped)
    run_images(stopped)
    a, b = weights(whole.output), weights(stopped.output)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert lines(whole.output) == lines(stopped.output)


def test_an_infinite_beta_ends_the_run_and_writes_no_weights(make_config):
    config = make_config()
    config = dataclasses.replace(config, loss=dataclasses.replace(config.loss, beta=float("inf")))
    with pytest.raises(UserError, match=r"^stopped at step 3: loss or gradient was not finite in 3 steps"):
        run_images(config)
    assert not (Path(config.output) / "model").exists()
    last = sorted((Path(config.output) / "checkpoints").iterdir())[-1]
    assert all_finite(list(load_file(last / "weights-00000.safetensors").values()))
    assert lines(config.output)[-1]["skipped"] >= 1


def test_weights_that_are_not_finite_are_written_nowhere(make_config, monkeypatch, tmp_path):
    config = make_config()
    plain = loop._Training._step

    def breaking(self, step):
        row = plain(self, step)
        if step == 5:
            self.parameters[0].data.flatten()[0] = float("inf")
        return row

    monkeypatch.setattr(loop._Training, "_step", breaking)
    with pytest.raises(UserError, match="stopped at step 6: the weights are not finite"):
        run_images(config)
    assert not (Path(config.output) / "model").exists()
    assert [path.name for path in sorted((Path(config.output) / "checkpoints").iterdir())] == [
        "step-00000002",
        "step-00000004",
    ]
    assert export_newest(Path(config.output), tmp_path / "out")[1] == 4


@pytest.mark.parametrize("broken", ["nothing", "loss", "gradient"])
def test_loss_and_gradient_decide_by_the_norm_alone(broken):
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.tensor([1.0, float("inf") if broken == "gradient" else -2.0, 0.0])
    before = weight.grad.clone()
    loss = torch.tensor(float("nan") if broken == "loss" else 0.5)
    spoil_gradient(new_accelerator("fp32"), loss, [torch.nn.Parameter(torch.ones(2)), weight])
    assert not_finite(weight.grad.norm()).item() == float(broken != "nothing")
    assert torch.equal(weight.grad, before) or broken == "loss"


@pytest.mark.parametrize("kind", ["fused", "plain"])
def test_an_unfit_step_changes_neither_weights_nor_optimizer(kind):
    new_accelerator("fp32")
    weight = torch.nn.Parameter(torch.ones(3))
    if kind == "fused":
        inner: torch.optim.Optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    else:
        inner = torch.optim.Adafactor([weight], lr=0.1)
    optimizer = AcceleratedOptimizer(inner)
    weight.grad = torch.ones(3)
    step_unless(torch.tensor(0.0), optimizer)
    before, moments = weight.detach().clone(), json.dumps(_plain(inner))
    assert not torch.equal(before, torch.ones(3))
    weight.grad = torch.full((3,), float("nan"))
    step_unless(torch.tensor(1.0), optimizer)
    assert torch.equal(weight, before)
    assert json.dumps(_plain(inner)) == moments


@pytest.mark.parametrize("loss", [float("nan"), 1.0])
def test_the_scaler_of_fp16_sees_a_loss_of_nan_whose_gradient_is_finite(loss):
    accelerator = new_accelerator("fp32")
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = AcceleratedOptimizer(torch.optim.AdamW([weight], lr=0.1, fused=True), scaler=scaler)
    scaler.scale((weight * 2).sum()).backward()
    spoil_gradient(accelerator, torch.tensor(loss), [weight])
    scaler.unscale_(optimizer.optimizer)
    bad = not_finite(weight.grad.norm())
    step_unless(bad, optimizer)
    assert bad.item() == (loss != loss)
    assert torch.equal(weight, torch.ones(3)) == (loss != loss)
    assert scaler.get_scale() == (4.0 if loss != loss else 8.0)


def _plain(optimizer: torch.optim.Optimizer) -> list[list[float]]:
    return [value.flatten().tolist() for state in optimizer.state.values() for value in state.values()]


def test_only_a_row_of_skipped_steps_ends_the_run():
    skips = Skips(3)
    skips.count(4, [True, True, False, True])
    assert (skips.total, skips.in_a_row) == (3, 1)
    with pytest.raises(UserError, match=re.escape("stopped at step 6:")):
        skips.count(7, [True, True, False])
