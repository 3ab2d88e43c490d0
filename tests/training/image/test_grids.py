"""Grids of samples: what is written, what is logged, and that training does not notice them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from diffdpo.commands.measure import check_scorers, open_measure
from diffdpo.config import SamplesConfig, build
from diffdpo.errors import UserError
from diffdpo.models.sampling import Sampling, generate, load_pipeline
from diffdpo.training.image.grids import Grids, Measured, columns_of, side_by_side
from diffdpo.training.image.inputs import run_settings
from diffdpo.training.image.runner import run_images
from diffdpo.training.image.samples import sample_prompts

SAMPLES = SamplesConfig(every=2, count=3, steps=2, guidance=2.0, batch_size=2)
SCORED = SamplesConfig(every=2, count=3, steps=2, guidance=2.0, batch_size=2, scorers=("shapes-exact",))
LORA = {"lora__rank": 2, "model__reference": "adapter"}


def weights(folder: str, lora: bool = False) -> dict[str, torch.Tensor]:
    inner = "lora/pytorch_lora_weights.safetensors" if lora else "model/unet/diffusion_pytorch_model.safetensors"
    return load_file(Path(folder) / inner)


def rows(folder: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def of_grids(folder: str) -> list[dict[str, float]]:
    return [row for row in rows(folder) if any(key.startswith(("samples/", "drift/")) for key in row)]


@pytest.fixture
def make(make_config, tmp_path):
    def make(name: str, samples: SamplesConfig = SAMPLES, **changes):
        return make_config(output=str(tmp_path / name), samples=samples, training__steps=5, **changes)

    return make


@pytest.mark.parametrize("changes", [{}, LORA], ids=["full, average", "LoRA"])
def test_the_weights_are_to_the_bit_those_of_a_run_without_grids(make, changes):
    plain, watched = make("plain", SamplesConfig(), **changes), make("watched", **changes)
    run_images(plain)
    run_images(watched, open_measure)
    a, b = (weights(config.output, lora=bool(changes)) for config in (plain, watched))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_grid_shows_what_the_exported_model_draws(make):
    """The last one, of the average, is what `generate` draws from the result; the first, from the base."""
    config = make("run")
    run_images(config, open_measure)
    folder = Path(config.output) / "samples"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"step-{step:08d}.{ending}" for step in (0, 2, 4, 5) for ending in ("json", "png")
    )
    told = json.loads((folder / "step-00000005.json").read_text())["images"]
    how = Sampling(2, 2.0, None, 2)
    for step, model in ((0, config.model.path), (5, str(Path(config.output) / "model"))):
        prompts, seeds = [image["prompt"] for image in told], [image["seed"] for image in told]
        expected = side_by_side(generate(load_pipeline(model), prompts, seeds, how))
        with Image.open(folder / f"step-{step:08d}.png") as drawn:
            assert abs(np.asarray(drawn).astype(int) - np.asarray(expected).astype(int)).max() <= 1
    assert len(set(prompts)) == 3
    assert seeds == [0, 1, 2]
    assert [(image["row"], image["column"]) for image in told] == [(0, 0), (0, 1), (1, 0)]


def test_a_run_that_goes_on_draws_no_grid_twice_and_writes_the_same_lines(make, monkeypatch):
    from diffdpo.models.live import LiveSampler
    from diffdpo.training import loop

    whole, stopped = make("whole"), make("stopped")
    run_images(whole, open_measure)
    step, draw, drawn = loop._Training._step, LiveSampler.__call__, []

    def dying(self, number):
        if number == 4:
            raise KeyboardInterrupt
        return step(self, number)

    def counted(self):
        drawn.append(1)
        return draw(self)

    monkeypatch.setattr(LiveSampler, "__call__", counted)
    with monkeypatch.context() as patched:
        patched.setattr(loop._Training, "_step", dying)
        with pytest.raises(KeyboardInterrupt):
            run_images(stopped, open_measure)
    assert len(drawn) == 3
    folder = Path(stopped.output) / "samples"
    (folder / "step-00000005.png").write_bytes(b"half a picture")  # without its JSON it is none
    (folder / "step-00000005.png.partial").write_bytes(b"of a process that was killed")
    run_images(stopped, open_measure)
    assert len(drawn) == 4
    assert of_grids(whole.output) == of_grids(stopped.output)
    assert not list(folder.glob("*.partial"))
    for path in sorted((Path(whole.output) / "samples").iterdir()):
        assert path.read_bytes() == (folder / path.name).read_bytes()


KILLED = """
import os, sys, torch
torch.set_num_threads(1)
from PIL import Image
from pathlib import Path
from diffdpo.training.image import grids
plain = grids.write_json
def dying(path, value):
    os.kill(os.getpid(), 9)
grids.write_json = dying
images = [Image.new("RGB", (8, 8), "red")]
grids.Grids(Path(sys.argv[1]), ["a"], [0], {}, lambda: images, lambda *_: grids.Measured({}, {})).figures(0)
"""


def test_a_grid_whose_writer_was_killed_is_drawn_again(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "samples")], env={**os.environ})
    assert done.returncode == -signal.SIGKILL
    drawn = []

    def draw():
        drawn.append(1)
        return [Image.new("RGB", (8, 8), "blue")]

    grids = Grids(tmp_path / "samples", ["a"], [0], {}, draw, lambda *_: Measured({}, {}))
    grids.figures(0)
    grids.figures(0)
    assert len(drawn) == 1
    with Image.open(tmp_path / "samples" / "step-00000000.png") as picture:
        assert picture.getpixel((0, 0)) == (0, 0, 255)


def test_drift_and_scores_are_means_over_the_grid(tmp_path):
    """By hand: saturation from 0.2 to 0.3 on average is half more; a base of 0 has no share."""
    looks = iter([([0.1, 0.3], [0.0, 0.0], [5.0, 6.0]), ([0.2, 0.4], [0.1, 0.1], [7.0, 8.0])])

    def measure(prompts, images):
        saturation, contrast, scores = next(looks)
        return Measured({"judge": scores}, {"saturation": saturation, "contrast": contrast})

    images = [Image.new("RGB", (4, 4))] * 2
    grids = Grids(tmp_path, ["a", "b"], [0, 1], {"steps": 2}, lambda: images, measure)
    assert grids.figures(0) == {"samples/judge": 5.5}
    assert grids.figures(7) == pytest.approx({"samples/judge": 7.5, "drift/saturation": 0.5})
    other = Grids(tmp_path, ["a", "b"], [0, 1], {"steps": 3}, lambda: images, measure)
    with pytest.raises(StopIteration):
        other.figures(7)  # a grid of other settings is no grid of these


def test_scorers_are_heard_in_the_metrics(make, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle left of a blue square on a white background\n" * 2)
    samples = SamplesConfig(**{**vars(SCORED), "prompts": str(tmp_path / "prompts.txt")})
    config = make("run", samples)
    results = run_images(config, open_measure)
    found = of_grids(config.output)
    assert [row["step"] for row in found] == [0, 2, 4, 5]
    assert all("samples/shapes-exact" in row for row in found)
    assert all({"drift/saturation", "drift/contrast", "drift/sharpness"} <= row.keys() for row in found[1:])
    assert results["figures"]["samples/shapes-exact"] == pytest.approx(found[-1]["samples/shapes-exact"])


def test_samples_are_no_part_of_what_a_run_is(make, make_store):
    from diffdpo.data.triplets import TripletStore

    store = TripletStore.open(make("one").data.path)
    assert run_settings(make("one"), store) == run_settings(make("two", SamplesConfig()), store)
    assert "samples" not in run_settings(make("one"), store)


def test_what_cannot_be_drawn_is_told_before_a_folder_is_made(make, tmp_path):
    config = make("run", SamplesConfig(every=1, scorers=("pikscore",)))
    with pytest.raises(UserError, match=r"samples\.scorers: .*pickscore"):
        run_images(config, open_measure)
    with pytest.raises(UserError, match=r"samples\.prompts: no held-out captions"):
        run_images(make("run", data__held_out_share=0.0), open_measure)
    with pytest.raises(UserError, match="nowhere"):
        sample_prompts(make("run", SamplesConfig(every=1, prompts=str(tmp_path / "nowhere.txt"))), [])
    assert not Path(config.output).exists()
    check_scorers(["shapes-exact"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, r"samples\.every: must be at least 1"),
        ({"count": 0}, r"samples\.count: must be at least 1"),
        ({"scorers": "pickscore"}, "a list is wanted here"),
        ({"scorers": [3.5, [1]]}, r"scorers\[1\]"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=message):
        build(SamplesConfig, settings)


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (3, 2), (4, 2), (5, 3), (16, 4), (17, 5)])
def test_a_grid_is_nearly_square(count, columns):
    assert columns_of(count) == columns
    images = [Image.new("RGB", (10, 6), (place, 0, 0)) for place in range(count)]
    grid = side_by_side(images)
    assert grid.size == (columns * 12 - 2, -(-count // columns) * 8 - 2)
    last = count - 1
    assert grid.getpixel((last % columns * 12, last // columns * 8)) == (last, 0, 0)
