"""Rates and the weight average against their definitions."""

from __future__ import annotations

import dataclasses
import math
import sys
import types

import pytest
import torch

from diffdpo.config import TrainingConfig
from diffdpo.config.ppo import PpoTrainingConfig
from diffdpo.errors import UserError
from diffdpo.training.optimization import WeightAverage, check_optimizer, learning_rate, make_optimizer

BASE = TrainingConfig(steps=100, batch_size=1, learning_rate=2e-4, warmup_steps=10)


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("constant", 0, 2e-5),
        ("constant", 9, 2e-4),
        ("constant", 99, 2e-4),
        ("linear", 55, 1e-4),
        ("linear", 99, 2e-4 / 90),
        ("cosine", 55, 1e-4),
        ("cosine", 32, 1e-4 * (1 + math.cos(math.pi * 22 / 90))),
    ],
)
def test_learning_rate(schedule, step, expected):
    assert learning_rate(dataclasses.replace(BASE, schedule=schedule), step) == pytest.approx(expected, rel=1e-12)


def test_the_average_follows_its_recurrence_in_float64():
    generator = torch.Generator().manual_seed(0)
    path = [torch.randn(5, generator=generator) for _ in range(40)]
    average = WeightAverage([path[0]], decay=0.8)
    expected = path[0].double()
    for step, weights in enumerate(path):
        average.update([weights], step)
        decay = min(0.8, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weights.double()
    torch.testing.assert_close(average.weights[0].double(), expected, rtol=0, atol=1e-6)
    assert min(0.8, 40 / 49) == 0.8  # the cap was reached on the way


def test_a_half_precision_weight_is_averaged_in_float32():
    weight = torch.ones(3, dtype=torch.bfloat16)
    average = WeightAverage([weight], decay=0.999)
    average.update([weight + 0.0078125], step=10_000)
    assert average.weights[0].dtype == torch.float32
    torch.testing.assert_close(average.weights[0], torch.full((3,), 1 + 0.001 * 0.0078125), rtol=0, atol=2e-7)


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("adafactor", torch.optim.Adafactor)])
def test_optimizers_by_name(name, kind):
    check_optimizer(name, torch.device("cpu"))
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))], "weight_decay": 0.5}]
    made = make_optimizer(dataclasses.replace(BASE, optimizer=name), groups)
    assert type(made) is kind
    assert (made.param_groups[0]["lr"], made.param_groups[0]["weight_decay"]) == (BASE.learning_rate, 0.5)


def test_8_bit_adamw_is_the_packages(monkeypatch):
    fake = types.ModuleType("bitsandbytes")
    fake.optim = types.SimpleNamespace(AdamW8bit=torch.optim.AdamW)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bitsandbytes", fake)
    check_optimizer("adamw8bit", torch.device("cuda"))
    config = PpoTrainingConfig(steps=100, batch_size=1, learning_rate=2e-4, optimizer="adamw8bit", adam_eps=1e-5)
    made = make_optimizer(config, [{"params": [torch.nn.Parameter(torch.ones(2))]}])
    assert type(made) is torch.optim.AdamW
    assert made.param_groups[0]["eps"] == 1e-5


def test_8_bit_adamw_says_what_is_missing(monkeypatch):
    with pytest.raises(UserError, match=r"training\.optimizer: adamw8bit needs a GPU"):
        check_optimizer("adamw8bit", torch.device("cpu"))
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"training\.optimizer: adamw8bit needs the package bitsandbytes"):
        check_optimizer("adamw8bit", torch.device("cuda"))


@pytest.mark.parametrize("name", ["adafactor", "adamw8bit"])
def test_only_adamw_is_for_parted_weights(monkeypatch, name):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    check_optimizer("adamw", torch.device("cpu"))
    with pytest.raises(UserError, match=rf"training\.optimizer: {name} cannot be used with parted weights"):
        check_optimizer(name, torch.device("cuda"))
