"""A step's gradient: how it is shared out, and what becomes of it when memory is full."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffdpo.config import TrainingConfig
from diffdpo.errors import UserError
from diffdpo.training import room
from diffdpo.training.loop import train
from diffdpo.training.processes import new_accelerator
from diffdpo.training.shares import Shares, dealt


class Narrow(nn.Module):
    """A network that runs out of memory above some rows, from its call of some number on."""

    def __init__(self, rows: int, since: int = 0, error: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
        self.rows, self.since, self.calls, self.error = rows, since, 0, error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        y: torch.Tensor = self.layers(x)
        if len(x) > self.rows and self.calls > self.since:
            # As on a GPU, on the way back as well as here: gradients of some micro-steps are there by then.
            y.register_hook(self._full)
        return y

    def _full(self, gradient: torch.Tensor) -> None:
        raise RuntimeError(self.error) if self.error else torch.OutOfMemoryError("CUDA out of memory.")


class Fit:
    """Learns a function of five numbers from thirty points."""

    n_examples = 30

    def __init__(self, network: Narrow) -> None:
        self.network = network
        self.points = torch.randn(30, 5, generator=torch.Generator().manual_seed(1))

    def loss(self, network, examples):
        x = self.points[[index for index, _ in examples]]
        loss = (network(x)[:, 0] - x.sin().sum(1)).square().mean()
        return loss, {"loss": loss, "size": torch.tensor(float(len(x)))}

    def evaluate(self):
        return {}


def fit(folder, network, size=12, accumulation=1, refit=None, **keys):
    config = TrainingConfig(4, size, 1e-2, accumulation=accumulation, log_every=1, **keys)
    folder.mkdir(exist_ok=True)
    accelerator = new_accelerator("fp32")
    return train(Fit(network), config, seed=0, run="r", folder=folder, accelerator=accelerator, refit=refit)


@pytest.mark.parametrize(
    ("size", "since"),
    [(12, 0), (12, 2), (6, 1)],
    ids=["first step", "third step", "second micro-step"],  # when some of the gradient is there already
)
def test_a_step_that_does_not_fit_is_done_in_smaller_parts_to_the_same_end(tmp_path, size, since):
    told = []
    shrunk = fit(tmp_path / "shrunk", Narrow(3, since), size, 12 // size, refit=told.append)
    assert told == [Shares(6, 2), Shares(3, 4)][12 // size - 1 :]
    assert shrunk.figures["size"] == 3
    whole = fit(tmp_path / "whole", Narrow(12))
    for ours, theirs in zip(shrunk.weights, whole.weights, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)
    assert shrunk.figures["loss"] == pytest.approx(whole.figures["loss"], rel=1e-6)
    if since == 0:
        given = fit(tmp_path / "given", Narrow(3), 3, 4)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(shrunk.weights, given.weights, strict=True))


@pytest.mark.parametrize(
    ("size", "keys", "words"),
    [
        (
            12,
            {},
            r"full with 12 at a time; try training\.batch_size=6 \(training\.accumulation=2\), or in a new folder "
            r"training\.gradient_checkpointing=true or training\.optimizer=adafactor or train fewer weights$",
        ),
        (
            1,
            {"gradient_checkpointing": True},
            r"1 at a time; try in a new folder training\.optimizer=adafactor or train fewer weights$",
        ),
    ],
)
def test_memory_that_is_full_is_told_in_one_line(tmp_path, size, keys, words):
    with pytest.raises(UserError, match=words):
        fit(tmp_path, Narrow(0), size, **keys)


def test_single_examples_cannot_become_smaller(tmp_path):
    told = []
    with pytest.raises(UserError, match="the memory is full with 1 at a time"):
        fit(tmp_path, Narrow(0), 3, 4, refit=told.append)
    assert told == [Shares(1, 12)]


def test_several_processes_are_told_what_to_start_with():
    """The others wait in a step that the one without memory has left."""
    config = TrainingConfig(1, 4, 1e-2)
    with pytest.raises(UserError, match=r"with 4 at a time; try training\.batch_size=2"):
        room.smaller(torch.OutOfMemoryError("full"), Shares(4, 1, count=2), config, refit=lambda shares: None)


@pytest.mark.parametrize(
    ("words", "kind"),
    [("can't allocate memory", UserError), ("CUBLAS_STATUS_ALLOC_FAILED", UserError), ("shapes differ", RuntimeError)],
)
def test_what_other_errors_are(tmp_path, words, kind):
    with pytest.raises(kind, match="memory is full" if kind is UserError else "^shapes differ$"):
        fit(tmp_path, Narrow(3, error=words))


def test_every_example_is_somebodys_however_a_step_is_shared_out():
    places = [(index, 0) for index in range(24)]
    shares: Shares | None = Shares(12, 1, count=2)
    sizes = []
    while shares:
        sizes.append(shares.size)
        shared = [dealt(places, shares.size, index, 2) for index in range(2)]
        assert [len(micro) for own in shared for micro in own] == [shares.size] * 2 * shares.accumulation
        assert sorted(one for own in shared for micro in own for one in micro) == places
        assert shares.step == 24
        shares = shares.smaller()
    assert sizes == [12, 6, 3, 1]
