"""Suites through the whole command with tiny real models: published prompts, parts, GenEval with a real detector."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from detector_samples import save_yolos
from PIL import Image

from diffdpo import cli
from diffdpo.benchmarks import blocks
from diffdpo.benchmarks.results import read_run
from diffdpo.shapes.weights import PICKSCORE
from scorers import hpsv2

SHARED = Path(os.environ.get("DIFFDPO_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
REAL = {
    "parti": (["--data", "partiprompts"], {"category", "challenge"}),
    "pickapic": (["--data", "pickapic_prompts", "--split", "test"], set()),
    "hpsv2": (["--data", "hpsv2_photo/hps_v2_all.txt", "--style", "photo"], {"style"}),
}


def bench(*words: object) -> int:
    return cli.run(["bench", *map(str, words), "--device", "cpu"])


def drawn(model: Path) -> list[object]:
    return ["--model", model, "--steps", 1, "--scorer", "shapes-hpsv2"]


@pytest.mark.parametrize("suite", REAL)
def test_real_prompts_through_a_tiny_pipeline(suite: str, tiny_model: Path, tmp_path: Path) -> None:
    words, kinds = REAL[suite]
    if not (SHARED / words[1]).exists():
        pytest.skip(f"{SHARED / words[1]} is not here")
    words = [str(SHARED / word) if word == words[1] else word for word in words]
    assert bench(suite, *words, *drawn(tiny_model), "--limit", 3, "--out", tmp_path / "run") == 0
    run = read_run(tmp_path / "run")
    assert len(run.rows) == 3
    assert set(run.summary["categories"]) == kinds
    assert len(run.manifest["inputs"]) == 1


def test_geneval_with_a_real_detector(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = [
        {"tag": "single_object", "include": [{"class": "tv", "count": 1}], "prompt": "a photo of a tv"},
        {"tag": "counting", "include": [{"class": "dog", "count": 2}], "prompt": "a photo of two dogs"},
        {"tag": "colors", "include": [{"class": "tv", "count": 1, "color": "red"}], "prompt": "a photo of a red tv"},
    ]
    (tmp_path / "evaluation_metadata.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    detector = save_yolos(tmp_path / "detector", ["tvmonitor", "dog"])
    words = ["geneval", "--data", tmp_path, "--detector", detector, "--colors", PICKSCORE, "--repeat", 2]
    words += ["--model", tiny_model, "--steps", 1, "--out", tmp_path / "run"]
    assert bench(*words) == 0
    out = capsys.readouterr().out
    assert "3 GenEval prompts" in out
    assert "overall, the mean over tasks" in out
    run = read_run(tmp_path / "run")
    assert run.summary["figures"]["tasks"]["single_object"] == 1.0  # it always finds a tv
    assert run.summary["figures"]["tasks"]["counting"] == 0.0
    assert [row.why for row in run.rows[2:4]] == ["dog: 2 wanted, 0 found"] * 2
    assert run.rows[3].image == "images/00001/samples/0001.png"
    assert run.summary["parts"]["exact"]["n"] == 3  # prompts, not images
    assert run.settings["colors"].startswith("pickscore ")


def test_parts_by_the_command_are_what_one_command_makes(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(blocks, "AT_LEAST", 2)
    (tmp_path / "mine.txt").write_text("a cat\na dog\na fish\na cow\n")
    words = ["prompts", "--prompts", tmp_path / "mine.txt", *drawn(tiny_model), "--batch-size", 2]
    assert bench(*words, "--out", tmp_path / "whole") == 0
    parts = [tmp_path / "one", tmp_path / "two"]
    for number, part in enumerate(parts, 1):
        assert bench(*words, "--part", f"{number}/2", "--out", part) == 0
    assert "part 2/2: 2 images" in capsys.readouterr().out
    merge = ["prompts", "--merge", *parts, "--out", tmp_path / "merged"]
    assert bench(*merge, "--dry-run") == 0
    assert "would put 2 parts of suite prompts together" in capsys.readouterr().out
    assert not (tmp_path / "merged").exists()
    assert bench(*merge) == 0
    for name in ("manifest.json", "results.jsonl", "summary.json", "images/00003.png"):
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    settings = read_run(tmp_path / "merged").settings
    recorded = ("sampler", "steps", "guidance", "size", "precision", "seed", "antialias", "prompts_sha256")
    assert {key: settings[key] for key in recorded[:-1]} == {
        "sampler": "DDIMScheduler",
        "steps": 1,
        "guidance": 7.5,
        "size": None,
        "precision": "float32",
        "seed": 0,
        "antialias": False,
    }
    assert read_run(tmp_path / "merged").summary["sizes"] == [[16, 16]]


def test_antialias_reaches_the_scorer_and_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = hpsv2.fit_and_pad

    def fit_and_pad(pixels: object, size: int, antialias: bool) -> object:
        seen.append(antialias)
        return original(pixels, size, antialias)  # type: ignore[arg-type]

    monkeypatch.setattr(hpsv2, "fit_and_pad", fit_and_pad)
    (tmp_path / "mine.txt").write_text("a cat\na dog\n")
    for name in ("0.png", "1.png"):
        Image.new("RGB", (48, 40)).save(tmp_path / name)
    words = ["prompts", "--prompts", tmp_path / "mine.txt", "--images", tmp_path, "--scorer", "shapes-hpsv2"]
    words += ["--out", tmp_path / "run"]
    assert bench(*words, "--antialias") == 0
    assert set(seen) == {True}
    assert read_run(tmp_path / "run").settings["antialias"] is True
    assert read_run(tmp_path / "run").summary["scorers"]["shapes-hpsv2"]["settings"]["antialias"] is True
    assert bench(*words) == 2  # other settings


def test_the_list_and_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "--list"]) == 0
    listed = capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.run(["bench", "--help"])
    for name in ("shapes", "hpsv2", "pickapic", "parti", "drawbench", "geneval", "prompts"):
        assert f"\n  {name} " in "\n" + listed
        assert name in capsys.readouterr().out or name in listed
    assert cli.run(["bench", "--list", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["suites"]) >= {"hpsv2", "prompts"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a suite, one of shapes"),
        (["shapes"], "say what to measure, with one of --model, --models"),
        (["shapes", "--model", "shapes"], "name the folder of the results with --out"),
        (["shapes", "--models", "shapes", "--part", "1/2", "--out", "x"], "--part 1/2: goes with --model or --images"),
        (["shapes", "--model", "shapes", "--drift-from", "m", "--out", "x"], "--drift-from m: goes with --models;"),
        (["shapes", "--models", "shapes", "shapes", "--out", "x"], "shapes is given twice"),
        (["shapes", "--checkpoints", "none", "--out", "x"], "no training run of an image model"),
        (["shapes", "--model", "shapes", "--part", "2", "--out", "x"], "say which part of how many, as in 1/2"),
        (["shapes", "--model", "shapes", "--part", "1/9", "--out", "x"], "320 images are 5 blocks of 64"),
    ],
)
def test_wrong_words(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bench(*words) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
