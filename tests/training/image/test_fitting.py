"""What a config leaves to the memory: the size of a micro-batch and gradient checkpointing."""

from __future__ import annotations

import dataclasses
import json
import random
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from diffdpo import cli
from diffdpo.config import load_config
from diffdpo.data.triplets import TripletStore
from diffdpo.errors import UserError
from diffdpo.models.memory.architectures import architecture_of
from diffdpo.models.memory.footprint import footprint
from diffdpo.models.stable_diffusion import StableDiffusion
from diffdpo.training import loop
from diffdpo.training.image import fitting
from diffdpo.training.image.ahead import Ahead
from diffdpo.training.image.fitting import Memory, Way, choose, settle
from diffdpo.training.image.inputs import run_settings
from diffdpo.training.image.runner import run_images

SIZE = (16, 16)
PLENTY = Memory(10**12, 10**12)
AUTO = {"training__batch_size": "auto", "training__pairs_per_step": 4}


def weights(config) -> dict[str, torch.Tensor]:
    return load_file(Path(config.output) / "model" / "unet" / "diffusion_pytorch_model.safetensors")


def logged(config) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (Path(config.output) / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "pairs_per_second"} for row in rows]


def recorded(config) -> tuple[int, int]:
    training = json.loads((Path(config.output) / "config.json").read_text())["training"]
    return training["batch_size"], training["accumulation"]


def test_the_choice_is_that_of_all_ways_tried_one_by_one():
    rng = random.Random(0)
    for _ in range(300):
        n = rng.randint(1, 60)
        sizes = [size for size in range(1, n + 1) if n % size == 0]
        fixed, each, saved, room = rng.randint(0, 20), rng.randint(1, 9), rng.randint(0, 20), rng.randint(1, 300)
        options = rng.choice([(False,), (True,), (False, True)])

        def takes(way, fixed=fixed, each=each, saved=saved):
            return fixed + (each * way.pairs / 4 if way.checkpointing else saved + each * way.pairs)

        fitting_ways = [way for way in (Way(*both) for both in product(sizes, options)) if takes(way) <= room]
        best = min(fitting_ways, key=lambda way: (way.checkpointing, -way.pairs), default=Way(1, options[-1]))
        assert choose(sizes, options, takes, room) == best


@pytest.mark.parametrize(("pairs", "checkpointing"), [(2, False), (1, True)])
def test_as_much_as_fits_is_taken_and_told(make_config, capsys, pairs, checkpointing):
    """In 85% of the memory that is free."""
    config = make_config(
        training__batch_size="auto", training__pairs_per_step=4, training__gradient_checkpointing="auto"
    )
    path = config.model.path
    exact = fitting._by(config, Way(pairs, checkpointing))
    needed = footprint(architecture_of(path), fitting.tuning_of(exact, SIZE), path).total
    settled = settle(config, SIZE, Memory(int(needed / 0.85) + 2, 10**12)).training
    assert (settled.batch_size, settled.accumulation) == (pairs, 4 // pairs)
    assert settled.gradient_checkpointing is checkpointing
    on = "on" if checkpointing else "off"
    told = f"micro-batch {pairs} (accumulation {4 // pairs}), gradient checkpointing {on}: about 0.0 of 0.0 GB"
    assert told in capsys.readouterr().err


def test_pairs_that_take_more_than_in_proportion_are_counted(make_config, monkeypatch):
    """As with checkpointing, where from some number of pairs on a block's pass is what takes most."""

    def kinked(architecture, tuning, path):
        return SimpleNamespace(total=100 * tuning.images + 300 * max(0, tuning.images - 4))

    monkeypatch.setattr(fitting, "footprint", kinked)
    settled = settle(make_config(**AUTO), SIZE, Memory(int(900 / 0.85), 10**12)).training
    assert settled.batch_size == 2  # four pairs take 2000 and not 800


@pytest.mark.parametrize(("there", "expected"), [(10**12, False), (10**5, True)])
def test_checkpointing_alone_is_settled_by_the_memory_that_is_free(make_config, there, expected):
    config = make_config(training__gradient_checkpointing="auto")
    settled = settle(config, SIZE, Memory(there, 10**12)).training
    assert settled.gradient_checkpointing is expected
    assert (settled.batch_size, settled.accumulation) == (4, 1)


def test_a_run_with_auto_is_the_run_with_those_numbers(make_config):
    """Bit for bit, for their configs are equal; and neither refuses the other's folder."""
    given, auto = make_config(), make_config(**AUTO)
    assert settle(auto, SIZE, PLENTY) == settle(given, SIZE, PLENTY) == given
    store = TripletStore.open(given.data.path)
    assert run_settings(auto, store) == run_settings(given, store)


def test_a_micro_batch_that_does_not_fit_after_all_becomes_smaller_and_stays_so(make_config, tmp_path, monkeypatch):
    """Also where the run is stopped and there is memory enough when it goes on."""
    plain = {"training__steps": 2, "training__checkpoint_every": 1, "training__prefetch": 2}
    given = make_config(
        output=str(tmp_path / "given"), training__batch_size=2, training__accumulation=2, training__log_every=1, **plain
    )
    run_images(given)
    auto = make_config(output=str(tmp_path / "auto"), training__log_every=1, **AUTO, **plain)
    predict, step = StableDiffusion.predict, loop._Training._step

    def narrow(self, network, x_t, timesteps, conditioning):
        if type(x_t) is torch.Tensor and torch.is_grad_enabled() and len(x_t) > 4:  # not what is only counted
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return predict(self, network, x_t, timesteps, conditioning)

    def dying(self, number):
        if number == 1:
            raise KeyboardInterrupt
        return step(self, number)

    with monkeypatch.context() as patched:
        patched.setattr(StableDiffusion, "predict", narrow)
        patched.setattr(loop._Training, "_step", dying)
        with pytest.raises(KeyboardInterrupt):
            run_images(auto)
    assert recorded(auto) == (2, 2)
    run_images(auto)
    assert recorded(auto) == (2, 2)
    left, right = weights(given), weights(auto)
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert logged(given) == logged(auto)
    # Less that is free changes nothing for this run; a smaller device does.
    assert settle(auto, SIZE, Memory(1, 10**12)).training.batch_size == 2
    assert settle(auto, SIZE, Memory(1, 1)).training.batch_size == 1


def test_what_was_prepared_ahead_is_cut_anew_for_another_size():
    prepared = []
    ahead = Ahead(lambda examples: prepared.append(list(examples)) or list(examples), depth=2)
    step = [(index, 0) for index in range(12)]
    ahead.announce(step)
    ahead.take([(99, 0)] * 4)
    taken = [ahead.take(step[first : first + 2]) for first in range(0, 12, 2)]
    assert [one for some in taken for one in some] == step
    # The size changes once; from the second on each is there before it is asked for, and none is made twice.
    pairs = [some for some in prepared if len(some) == 2]
    assert sorted(pairs) == [step[first : first + 2] for first in range(0, 12, 2)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["training.batch_size=auto"], "batch_size: auto needs training.pairs_per_step"),
        (["training.batch_size=atuo"], "batch_size: a whole number or auto is wanted here, not 'atuo'"),
        (["training.batch_size=null"], "batch_size: a whole number or auto is wanted here, not None"),
        (["training.batch_size=0"], "batch_size: must be at least 1"),
        (["training.pairs_per_step=0"], "pairs_per_step: must be at least 1"),
        (
            ["training.pairs_per_step=4", "training.accumulation=2"],
            "accumulation: follows from training.pairs_per_step",
        ),
        (
            ["training.batch_size=auto", "training.pairs_per_step=4", "data.size=32", "data.buckets=true"],
            "data.buckets",
        ),
    ],
)
def test_keys_that_do_not_go_together(changes, words):
    with pytest.raises(UserError, match=words):
        load_config("configs/shapes_dpo.yaml", changes)


def test_methods_that_have_no_auto():
    auto = ["training.batch_size=auto", "training.pairs_per_step=4"]
    with pytest.raises(UserError, match="batch_size: auto cannot be had with method kto, whose reference point"):
        load_config("configs/shapes_kto.yaml", auto)
    for name, what in (("text_dpo", "text"), ("scorer_pickscore", "a scorer")):
        with pytest.raises(UserError, match=f"batch_size: auto cannot be had for {what}; say a number"):
            load_config(f"configs/{name}.yaml", auto[:1])
        with pytest.raises(UserError, match=f"gradient_checkpointing: auto cannot be had for {what}"):
            load_config(f"configs/{name}.yaml", ["training.gradient_checkpointing=auto"])


@pytest.mark.parametrize(
    ("changes", "processes", "words"),
    [
        ({**AUTO, "training__pairs_per_step": 6}, 4, "4 processes cannot share 6 evenly; say a multiple of 4"),
        ({"training__pairs_per_step": 6}, 1, "batch_size: 4 does not go into the 6 pairs"),
        ({**AUTO, "model__path": "some/thing"}, 1, "batch_size: auto cannot tell what some/thing takes; say a number"),
        (
            {**AUTO, "training__gradient_checkpointing": "auto", "model__path": "some/thing"},
            1,
            "batch_size and training.gradient_checkpointing: auto cannot .* some/thing takes; say a number and true or",
        ),
    ],
)
def test_what_cannot_be_settled(make_config, monkeypatch, changes, processes, words):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    with pytest.raises(UserError, match=words):
        settle(make_config(**changes), SIZE, PLENTY)


def test_accumulation_follows_from_the_pairs_of_a_step(make_config, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    settled = settle(make_config(training__pairs_per_step=24), SIZE, PLENTY).training
    assert (settled.batch_size, settled.accumulation) == (4, 2)


def test_a_dry_run_tells_what_would_be_chosen(make_config, tmp_path, capsys):
    import yaml

    (tmp_path / "c.yaml").write_text(yaml.safe_dump(dataclasses.asdict(make_config(**AUTO))))
    assert cli.run(["train", str(tmp_path / "c.yaml"), "--dry-run"]) == 0
    told = capsys.readouterr()
    assert "of 4 pairs each (4 at a time)" in told.out
    assert "micro-batch 4 (accumulation 1)" in told.err
