"""Whole runs of a judge over rendered scenes, from the shipped tiny weights: learning, resuming, exporting."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import scorers
from diffdpo import cli
from diffdpo.commands.train import _built_in, open_judge
from diffdpo.config import ScorerConfig, build
from diffdpo.data.judgements import open_judgements
from diffdpo.data.triplets import Pair, write_pairs
from diffdpo.errors import UserError
from diffdpo.shapes import weights as shipped
from diffdpo.shapes.render import render, to_image
from diffdpo.shapes.scene import split_scenes
from diffdpo.training import checkpoints
from diffdpo.training.judge.runner import run_judge, split_judgements

SCRIPT = """
import sys, yaml, torch
torch.set_num_threads(1)
from diffdpo.commands.train import open_judge
from diffdpo.config import ScorerConfig, build
from diffdpo.training.judge.runner import run_judge
run_judge(build(ScorerConfig, yaml.safe_load(open(sys.argv[1]))), open_judge)
"""


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    to_image(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_store(folder: Path, n: int, ties: tuple[int, ...] = ()) -> Path:
    """Two careful pictures of a scene, one of them dimmed; these people prefer the dim one, and the shipped judges,
    which know the palette, do not."""
    rng = np.random.default_rng(0)
    known = split_scenes(held_out=False)
    scenes = [known[index] for index in rng.integers(len(known), size=24)]  # so few that captions occur again
    folder.mkdir()
    pairs = []
    for number in range(n):
        scene = scenes[int(rng.integers(len(scenes)))]
        images = [png(0.75 * render(scene, rng)), png(render(scene, rng))]
        first = number % 2 == 0
        labels = (0.5, 0.5) if number in ties else (float(first), float(not first))
        ordered = images if first else images[::-1]
        names = f"pair-{number}", f"prompt-{number}", "a", "b"
        pairs.append(Pair(scene.caption, *ordered, *labels, *names, number, number, "people", 1.0))
    write_pairs(folder, 0, pairs)
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return write_store(tmp_path_factory.mktemp("judge") / "pairs", 64)


@pytest.fixture
def make_config(store: Path, tmp_path: Path):
    """A config from the shipped tiny judge; keyword arguments are `section__key=value`."""

    def make(scorer: str = "pickscore", **changes: Any) -> ScorerConfig:
        settings: dict[str, Any] = {
            "output": str(tmp_path / "run"),
            "model": {"path": f"shapes-{scorer}", "scorer": scorer},
            "data": {"path": str(store), "held_out_share": 0.3, "workers": 2},
            "training": {"steps": 6, "batch_size": 4, "learning_rate": 3e-4, "ema": 0.9, "weight_decay": 0.3,
                         "checkpoint_every": 2, "evaluate_every": 3, "log_every": 3},
            "loss": {"kind": "pickscore"},
        }  # fmt: skip
        for path, value in changes.items():
            section, _, key = path.partition("__")
            if key:
                settings[section][key] = value
            else:
                settings[section] = value
        return _built_in(build(ScorerConfig, settings))

    return make


def exported(config: ScorerConfig) -> dict[str, torch.Tensor]:
    name = {"pickscore": "model.safetensors", "hpsv2": "hpsv2.safetensors"}[config.model.scorer]
    return load_file(Path(config.output) / "scorer" / name)


def figures(config: ScorerConfig) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (Path(config.output) / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "pairs_per_second"} for row in rows]


def load(config: ScorerConfig) -> Any:
    folder = Path(config.output) / "scorer"
    if config.model.scorer == "pickscore":
        return scorers.load("pickscore", model=str(folder))
    files = {"model": str(folder / "hpsv2.safetensors"), "architecture": str(folder / "open_clip_config.json")}
    return scorers.load("hpsv2", **files)


@pytest.mark.parametrize("scorer", ["pickscore", "hpsv2"])
def test_a_judge_learns_the_taste_of_these_people(make_config, scorer):
    config = make_config(scorer, training__steps=20, training__ema=None, training__batch_size=8)
    results = run_judge(config, open_judge)
    accuracies = [row["eval/accuracy"] for row in figures(config) if "eval/accuracy" in row]
    assert accuracies[0] < 0.2
    assert accuracies[-1] > 0.9
    assert results["figures"]["eval/accuracy"] == pytest.approx(accuracies[-1], rel=1e-6)
    assert results["judgements"] + results["held_out_judgements"] == 64
    # What was written down is what was measured: the loaded scorer, on the pictures of the held-out prompts.
    judgements = open_judgements(config.data.path)
    _, held_out = split_judgements(judgements, config)
    images = [Image.open(io.BytesIO(content)) for row in held_out for content in judgements.images(row)]
    captions = [judgements.rows[row].caption for row in held_out for _ in range(2)]
    better, worse = load(config).score(captions, images).reshape(-1, 2).T
    assert (better > worse).float().mean().item() == pytest.approx(accuracies[-1])


def test_killed_run_ends_with_the_same_bits_and_metrics(make_config, tmp_path):
    whole = make_config(output=str(tmp_path / "whole"), training__steps=16)
    run_judge(whole, open_judge)
    killed = make_config(output=str(tmp_path / "killed"), training__steps=16)
    file = tmp_path / "killed.yaml"
    file.write_text(yaml.safe_dump(dataclasses.asdict(killed)))
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(file)], stderr=subprocess.DEVNULL)
    marker = Path(killed.output) / "checkpoints" / "step-00000002" / checkpoints.MARKER
    for _ in range(1200):
        if marker.exists():
            break
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (Path(killed.output) / "scorer").exists()
    run_judge(killed, open_judge)
    first, second = exported(whole), exported(killed)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert figures(whole) == figures(killed)


def test_locked_weights_do_not_move(make_config):
    config = make_config(
        "hpsv2", model__unlocked_image_groups=2, model__unlocked_text_blocks=1, loss__kind="hps", training__ema=None
    )
    run_judge(config, open_judge)
    before, after = load_file(shipped.HPSV2 / "hpsv2.safetensors"), exported(config)
    moved = {key for key in before if not torch.equal(before[key].float(), after[key])}
    free = ("visual.transformer.resblocks.2.", "visual.ln_post.", "transformer.resblocks.2.", "ln_final.")
    expected = {key for key in before if key.startswith(free)}
    assert moved == expected | {"visual.proj", "text_projection", "logit_scale"}


def test_accumulation_equals_one_big_batch(make_config, tmp_path):
    """The weights of a step's judgements are divided by their sum over the whole step, not over a micro-step."""
    plain: dict[str, Any] = {"training__steps": 2, "training__ema": None, "training__max_grad_norm": 1e9}
    big = make_config(output=str(tmp_path / "big"), **plain)
    small = make_config(
        output=str(tmp_path / "small"), training__batch_size=1, training__accumulation=4, **plain
    )  # fmt: skip
    assert len({row.weight for row in open_judgements(big.data.path).rows}) > 2
    results = [run_judge(config, open_judge)["figures"] for config in (big, small)]
    for name in ("loss", "accuracy", "grad_norm"):
        assert results[0][name] == pytest.approx(results[1][name], rel=1e-4), name
    assert_close(exported(big), exported(small), big.training.learning_rate)


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], rate: float) -> None:
    """Adam turns rounding of a vanishing gradient into a whole step: nearly all weights must agree closely."""
    differences = torch.cat([(a[key] - b[key]).abs().flatten() for key in a])
    assert (differences < 0.05 * rate).float().mean() > 0.99
    assert differences.max() < 4.5 * rate


def test_two_processes_equal_one(make_config, tmp_path):
    plain: dict[str, Any] = {"training__steps": 2, "training__ema": None}
    one = make_config(output=str(tmp_path / "one"), **plain)
    run_judge(one, open_judge)
    two = make_config(output=str(tmp_path / "two"), training__batch_size=2, **plain)
    script, file = tmp_path / "script.py", tmp_path / "two.yaml"
    script.write_text(SCRIPT)
    file.write_text(yaml.safe_dump(dataclasses.asdict(two)))
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert_close(exported(one), exported(two), one.training.learning_rate)
    losses = [[row["loss"] for row in figures(config) if "loss" in row] for config in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_rankings_are_learnt_from_files(make_config, tmp_path, store):
    """HPDv2's layout with three images: the dim one is the best, then the bright, then an empty page."""
    judgements = open_judgements(store)
    (tmp_path / "train").mkdir()
    entries = []
    for number in range(24):
        dim, bright = judgements.images(number)
        for name, content in (("dim", dim), ("bright", bright), ("empty", png(np.ones((32, 32, 3), np.float32)))):
            (tmp_path / "train" / f"{number}-{name}.png").write_bytes(content)
        files = [f"{number}-{name}.png" for name in ("bright", "empty", "dim")]
        entries.append({"prompt": judgements.rows[number].caption, "image_path": files, "rank": [2, 3, 1]})
    (tmp_path / "train.json").write_text(json.dumps(entries))
    config = make_config("hpsv2", data__path=str(tmp_path), loss__kind="hps", training__steps=16, training__ema=None)
    run_judge(config, open_judge)
    evaluated = [row for row in figures(config) if "eval/accuracy" in row]
    assert evaluated[-1]["eval/accuracy"] > evaluated[0]["eval/accuracy"] + 0.2
    assert evaluated[-1]["eval/loss"] < evaluated[0]["eval/loss"]


def test_ties_are_trained_on_or_dropped_and_never_looked_at(make_config, tmp_path):
    judgements = open_judgements(write_store(tmp_path / "ties", 30, ties=tuple(range(0, 30, 3))))
    half, drop = make_config(data__ties="half"), make_config(data__ties="drop")
    train, held_out = split_judgements(judgements, half)
    tied = {index for index, row in enumerate(judgements.rows) if row.tie}
    assert len(tied) == 10
    assert tied & set(train)
    assert not tied & set(held_out)
    fewer, same = split_judgements(judgements, drop)
    assert set(fewer) == set(train) - tied
    assert same == held_out
    captions = [judgements.rows[index].caption for index in (*train, *held_out)]
    assert not {captions[i] for i in range(len(train))} & set(captions[len(train) :])


def test_nothing_but_ties_is_an_error(make_config, tmp_path):
    path = write_store(tmp_path / "ties", 8, ties=tuple(range(8)))
    for ties in ("half", "drop"):
        config = make_config(data__path=str(path), data__ties=ties)
        with pytest.raises(UserError, match="nothing to learn from: of 8 judgements 8 are ties"):
            run_judge(config, open_judge)
        assert not Path(config.output).exists()


def test_other_settings_are_refused_by_name(make_config):
    run_judge(make_config(), open_judge)
    assert run_judge(make_config(data__workers=1), open_judge)  # decides nothing
    with pytest.raises(UserError, match=re.escape('loss.kind: there "pickscore", now "hps"')):
        run_judge(make_config(loss__kind="hps"), open_judge)


def test_the_command_line(store, tmp_path, capsys):
    out = tmp_path / "run"
    argv = ["train", "configs/scorer_hpsv2.yaml", f"data.path={store}", f"output={out}", "model.path=shapes-hpsv2",
            "training.steps=2", "training.precision=fp32", "training.accumulation=1", "training.batch_size=4",
            "data.held_out_share=0.3", "--json"]  # fmt: skip
    assert cli.run([*argv, "--dry-run"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["judgements"] + plan["held_out_judgements"] == 64
    assert plan["pairs_per_step"] == 4
    # Weights in float32; gradients and two moments of all but the text embeddings: more is unlocked than there is.
    sizes = {name: tensor.numel() for name, tensor in load_file(shipped.HPSV2 / "hpsv2.safetensors").items()}
    locked = sizes["token_embedding.weight"] + sizes["positional_embedding"]
    total = sum(sizes.values())
    assert plan["memory_gb"] == pytest.approx((4 * total + 12 * (total - locked)) / 1e9)
    assert not out.exists()
    assert cli.run(argv) == 0
    result = json.loads(capsys.readouterr().out)
    caption = "a red circle on a white background"
    scorer = eval(result["load"], {"scorers": scorers})
    assert scorer.score([caption], [Image.new("RGB", (32, 32))]).shape == (1,)
    assert cli.run(["export", str(out), "--out", str(tmp_path / "exported")]) == 0
    assert (
        load_file(tmp_path / "exported" / "hpsv2.safetensors").keys()
        == load_file(out / "scorer" / "hpsv2.safetensors").keys()
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.path=shapes-pickscore", "shapes-pickscore is no hpsv2"),
        ("model.path=./nowhere.pt", "there is no weight file"),
        ("data.path=./nowhere", "no such file or folder"),
        ("model.processor=x", "model.processor: only pickscore"),
        ("training.timestep_power=2", "training.timestep_power"),
        ("model.scorer=aesthetic", "unknown value of model.scorer:"),
        ("loss.beta=1", "unknown key 'loss.beta'"),
    ],
)
def test_mistakes_are_one_line(store, tmp_path, capsys, override, message):
    argv = ["train", "configs/scorer_hpsv2.yaml", f"data.path={store}", f"output={tmp_path / 'o'}",
            "model.path=shapes-hpsv2", override, "--dry-run"]  # fmt: skip
    assert cli.run(argv) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert out == ""
    assert not (tmp_path / "o").exists()
