"""The small, resumable loop with which the tiny models that ship were built: Adam, warm-up, cosine decay, weight EMA.

Runs of users have `training/loop.py`.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@dataclass(frozen=True)
class Schedule:
    """How long and how fast. `steps` optimiser steps at a peak learning rate, of which `warmup` rise linearly."""

    steps: int
    learning_rate: float
    warmup: int = 200
    weight_decay: float = 0.0
    ema: float = 0.999
    save_every: int = 1000


def fit(
    name: str,
    model: nn.Module,
    loss_at: Callable[[int], tuple[Tensor, dict[str, float]]],
    schedule: Schedule,
    work: Path,
    evaluate: Callable[[], dict[str, float]] | None = None,
) -> None:
    """Train `model` in place and leave the averaged weights in it.

    Args:
        loss_at: the loss, and figures to print, of a step. A function of the step alone, so that a run that was
            stopped goes on as if it had not been.
        work: folder of the resumable state, `<name>.pt`.
        evaluate: figures of the averaged model, printed at every save.
    """
    # Moments of vanishing gradients become denormal numbers, which make a CPU several times slower.
    torch.set_flush_denormal(True)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=0.0, weight_decay=schedule.weight_decay, betas=(0.9, 0.99), fused=True
    )
    average = {key: value.detach().clone() for key, value in model.state_dict().items()}
    state_path, start = work / f"{name}.pt", 0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average, start = state["average"], state["step"]
    began = time.time()
    for step in range(start, schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(schedule, step)
        torch.manual_seed(step)
        optimizer.zero_grad(set_to_none=True)
        # On short sequences a CPU's flash attention takes half of the whole backward pass; plain products do not.
        with sdpa_kernel(SDPBackend.MATH):
            loss, figures = loss_at(step)
            loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay = min(schedule.ema, (1 + step) / (10 + step))
        for key, value in model.state_dict().items():
            average[key].lerp_(value, 1 - decay) if value.is_floating_point() else average[key].copy_(value)
        done = step + 1
        if done % 200 == 0:
            _say(name, done, schedule.steps, (time.time() - began) / (done - start), loss.item(), figures)
        if done % schedule.save_every == 0 or done == schedule.steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average, "step": done}
            torch.save(state, state_path.with_suffix(".tmp"))
            os.replace(state_path.with_suffix(".tmp"), state_path)
            if evaluate is not None:
                _evaluate_average(name, model, average, evaluate)
    model.load_state_dict(average)
    model.eval()


def silence_residual_branches(network: nn.Module) -> None:
    """Start with the last layer of every residual branch at zero: fewer steps to the same error, see the docs."""
    for name, module in network.named_modules():
        if name.endswith(("conv2", "to_out.0", "ff.net.2")) and isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def learning_rate(schedule: Schedule, step: int) -> float:
    """Linear warm-up, then a half cosine down to zero."""
    if step < schedule.warmup:
        return schedule.learning_rate * (step + 1) / schedule.warmup
    progress = (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup)
    return schedule.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def _evaluate_average(
    name: str, model: nn.Module, average: dict[str, Tensor], evaluate: Callable[[], dict[str, float]]
) -> None:
    current = {key: value.detach().clone() for key, value in model.state_dict().items()}
    model.load_state_dict(average)
    model.eval()
    with torch.no_grad():
        figures = evaluate()
    model.train()
    model.load_state_dict(current)
    print(f"{name}: averaged model: " + _spell(figures), file=sys.stderr, flush=True)


def _say(name: str, done: int, steps: int, seconds: float, loss: float, figures: dict[str, float]) -> None:
    print(
        f"{name}: step {done}/{steps}  {seconds:.3f} s/step  loss {loss:.4f}  " + _spell(figures),
        file=sys.stderr,
        flush=True,
    )


def _spell(figures: dict[str, float]) -> str:
    return "  ".join(f"{key} {value:.4f}" for key, value in figures.items())
