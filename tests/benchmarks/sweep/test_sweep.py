"""Models held against a reference: figures by hand, the table, the plot; and the checkpoints of a real run."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ElementTree
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_fakes import PROMPTS, Bright, draw_noise, plain_suite
from PIL import Image
from safetensors.torch import load_file

from diffdpo import cli
from diffdpo.benchmarks.results import BenchRun, read_run
from diffdpo.benchmarks.suite import run_suite
from diffdpo.benchmarks.sweep import points as sweep
from diffdpo.benchmarks.sweep.plot import plot
from diffdpo.commands.bench_sweep import models
from diffdpo.config import DpoConfig, build
from diffdpo.errors import UserError
from diffdpo.training.image.runner import run_images

N = len(PROMPTS)
ENCODED: set[Path] = set()
"""No file is encoded twice."""


def grey_runs(folder: Path) -> dict[str, BenchRun]:
    """Images of one tone each: of the reference's tones, and of those 10 and 40 brighter."""

    def draw(plus: int) -> Callable[[Sequence[str], Sequence[int]], list[Image.Image]]:
        def images(prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
            return [Image.new("RGB", (4, 4), (seed % 100 + plus,) * 3) for seed in seeds]

        return images

    return {
        name: run_suite(plain_suite(), folder / name, draw=draw(plus), load_scorer=Bright)
        for name, plus in {"a/ref": 0, "near": 10, "far": 40}.items()
    }


def encode(files: Sequence[Path]) -> np.ndarray:
    """An angle from the tone: 0 is a right angle away from 250."""
    assert not ENCODED & set(files)
    ENCODED.update(files)
    tones = [np.asarray(Image.open(file))[0, 0, 0] for file in files]
    return np.array([[np.cos(tone / 250 * np.pi / 2), np.sin(tone / 250 * np.pi / 2)] for tone in tones])


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> list[sweep.Point]:
    runs = grey_runs(tmp_path_factory.mktemp("sweep"))
    return sweep.measure(runs, "a/ref", encode=encode, steps={"near": 100, "far": 200})


def test_figures_by_hand(points: list[sweep.Point]) -> None:
    reference, near, far = points
    assert reference.gains["bright"].mean == reference.drift["distance"].mean == 0
    assert near.gains["bright"].mean == pytest.approx(10)
    assert far.gains["bright"].mean == pytest.approx(40)
    assert far.rewards["bright"].mean == pytest.approx(reference.rewards["bright"].mean + 40)
    assert near.drift["distance"].mean == pytest.approx(1 - np.cos(10 / 250 * np.pi / 2))
    assert far.drift["distance"].mean == pytest.approx(1 - np.cos(40 / 250 * np.pi / 2))
    assert far.drift["contrast"].mean == 0
    assert [point.step for point in points] == [None, 100, 200]


def test_the_table_and_its_numbers(points: list[sweep.Point]) -> None:
    lines = sweep.table(points, "a/ref").split("\n")
    assert lines[1].split()[:2] == ["a/ref", "(reference)"]
    assert "+40" in lines[3]
    rows = list(csv.DictReader(io.StringIO(sweep.as_csv(points))))
    assert [row["model"] for row in rows] == ["a/ref", "near", "far"]
    assert float(rows[2]["gain bright"]) == pytest.approx(40)
    assert float(rows[2]["drift distance"]) == points[2].drift["distance"].mean
    assert rows[1]["prompts"] == str(N)


def test_the_plot_has_a_point_for_each_model_where_its_numbers_are(points: list[sweep.Point]) -> None:
    root = ElementTree.fromstring(plot(points, "a/ref"))
    tag = "{http://www.w3.org/2000/svg}"
    panel = root.find(f"{tag}g")  # bright against distance
    assert panel is not None
    circles = panel.findall(f"{tag}circle")
    assert [circle.get("class") for circle in circles] == ["reference", "dot", "dot"]
    across, up = ([float(circle.get(key, "nan")) for circle in circles] for key in ("cx", "cy"))
    assert across == sorted(across)
    assert up == sorted(up, reverse=True)  # a higher reward is nearer to the top
    near, far = points[1].drift["distance"].mean, points[2].drift["distance"].mean
    assert (across[1] - across[0]) / (across[2] - across[0]) == pytest.approx(near / far, abs=0.01)
    assert (up[1] - up[0]) / (up[2] - up[0]) == pytest.approx(10 / 40, abs=0.01)
    assert len(root.findall(f"{tag}g")) == len(points[0].drift)
    assert "http" not in plot(points, "a/ref").replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize(
    ("given", "reference", "names", "base"),
    [
        (["shapes", "a/b", "runs/dpo/model"], None, ["shapes", "b", "dpo"], "shapes"),
        (["shapes", "shapes+runs/dpo/lora"], None, ["shapes", "dpo"], "shapes"),
        (["a/x", "b/x"], "b/x", ["x-1", "x-2"], "x-2"),
        (["a/x"], "shapes", ["shapes", "x"], "shapes"),
    ],
)
def test_names_of_models(given: list[str], reference: str | None, names: list[str], base: str) -> None:
    entrants, found = models(Namespace(models=given, drift_from=reference))
    assert [entrant.name for entrant in entrants] == names
    assert found == base
    assert entrants[-1].lora == ("runs/dpo/lora" if "+" in given[-1] else None)


def test_other_seeds_are_no_sweep(tmp_path: Path) -> None:
    runs = {
        str(seed): run_suite(plain_suite(), tmp_path / str(seed), draw=draw_noise, load_scorer=Bright, seed=seed)
        for seed in (0, 1)
    }
    with pytest.raises(UserError, match="the seed of prompt 0 differs"):
        sweep.measure(runs, "0")


def test_the_checkpoints_of_a_run(
    tiny_model: Path, make_store: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {
        "output": str(tmp_path / "run"),
        "model": {"path": str(tiny_model), "reference": "adapter"},
        "data": {"path": str(make_store(8)), "held_out_share": 0.3},
        "training": {"steps": 3, "batch_size": 2, "learning_rate": 1e-1, "checkpoint_every": 1, "keep_checkpoints": 2},
        "loss": {"beta": 100},
        "lora": {"rank": 2},
    }
    run_images(build(DpoConfig, settings))
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    words = ["bench", "prompts", "--prompts", str(tmp_path / "prompts.txt"), "--checkpoints", str(tmp_path / "run")]
    words += ["--scorer", "shapes-pickscore", "--encoder", "shapes-pickscore", "--steps", "1", "--device", "cpu"]
    words += ["--out", str(tmp_path / "sweep")]
    assert cli.run([*words, "--dry-run"]) == 0
    assert "models: base, step-2, step-3" in capsys.readouterr().out
    assert not (tmp_path / "sweep").exists()
    assert cli.run(words) == 0
    assert "base (reference)" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "sweep" / "sweep.csv").open()))
    assert [(row["model"], row["step"]) for row in rows] == [("base", "0"), ("step-2", "2"), ("step-3", "3")]
    assert float(rows[0]["drift distance"]) == 0 < float(rows[1]["drift distance"])
    assert read_run(tmp_path / "sweep" / "step-3").settings["lora"].endswith("step-3")
    before = (tmp_path / "sweep" / "sweep.csv").read_bytes()
    assert cli.run(words) == 0  # all is there: only the table is made again
    assert (tmp_path / "sweep" / "sweep.csv").read_bytes() == before
    # The step that was chosen leaves in any form; what was measured is what is exported.
    assert cli.run(["export", str(tmp_path / "run"), "--step", "2", "--out", str(tmp_path / "chosen")]) == 0
    [chosen] = (tmp_path / "chosen").glob("*.safetensors")
    [measured] = (tmp_path / "sweep" / "weights" / "step-2").glob("*.safetensors")
    left, right = load_file(chosen), load_file(measured)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert cli.run(["export", str(tmp_path / "run"), "--step", "1", "--out", str(tmp_path / "gone")]) == 2
    assert "no whole checkpoint in it of step 1; there: 2, 3" in capsys.readouterr().err
