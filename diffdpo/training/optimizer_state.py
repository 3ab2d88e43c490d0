"""An optimiser's memory as named tensors, `number.key` of the parameter with that number, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffdpo.training.pieces import Pieces


def tensors_of(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Its tensors, in parts where the parameter is."""
    return {name: value for name, value in _state(optimizer).items() if isinstance(value, Tensor)}


def values_of(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The rest, which is JSON values."""
    return {name: value for name, value in _state(optimizer).items() if not isinstance(value, Tensor)}


def restore(optimizer: torch.optim.Optimizer, tensors: Pieces, values: dict[str, Any]) -> None:
    """Give an optimiser of the same parameters what another one remembered.

    Its groups stay as they are made from the config: the learning rate is set at every step.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name in [*tensors.names(), *values]:
        number, _, key = name.partition(".")
        found = values[name] if name in values else tensors.read_like(name, parameters[int(number)])
        state.setdefault(int(number), {})[key] = found
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    by_number = optimizer.state_dict()["state"]
    return {f"{number:05d}.{key}": value for number, state in by_number.items() for key, value in state.items()}
