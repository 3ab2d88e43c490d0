"""A scorer in a package of its own, as docs/scorers.md shows it: really built, installed and run in another process."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
LINES = 20
"""That a scorer of one's own should take, and may in the documentation; blank ones and imports aside."""


def blocks(language: str) -> list[str]:
    text = (ROOT / "docs" / "scorers.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def only(language: str, word: str) -> str:
    [block] = [block for block in blocks(language) if word in block]
    return block


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documented package, built from its sources by pip and installed into a folder of its own."""
    missing = [name for name in ("pip", "setuptools") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed here")
    source, target = tmp_path_factory.mktemp("my-package"), tmp_path_factory.mktemp("site")
    (source / "pyproject.toml").write_text(only("toml", "diffdpo.scorers"))
    (source / "my_package").mkdir()
    (source / "my_package" / "warmth.py").write_text(only("python", "class Warmth"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*pip, "--target", str(target), str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def score(*words: str, path: Path | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    command = [sys.executable, "-m", "diffdpo", "score", "--device", "cpu", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for index, colour in enumerate([(200, 50, 100), (0, 255, 255), (30, 30, 30)]):
        Image.new("RGB", (70, 50), colour).save(folder / f"{index:05d}.png")
    (folder / "prompts.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n{"prompt": "c"}\n')
    return folder


def test_the_command_line_finds_and_runs_an_installed_scorer(installed: Path, images: Path) -> None:
    done = score("--scorer", "warmth", "--dir", str(images), "--json", path=installed)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    # Mean red minus mean blue, by hand.
    expected = [(200 - 100) / 255, (0 - 255) / 255, 0.0]
    assert [row["warmth"] for row in result["rows"]] == pytest.approx(expected, abs=1e-6)
    assert result["scorers"]["warmth"]["scale"] == "mean red minus mean blue, -1 to 1"


def test_without_the_package_the_name_is_unknown(images: Path) -> None:
    done = score("--scorer", "warmth", "--dir", str(images), path=None)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "unknown scorer 'warmth'" in done.stderr


def test_the_documented_scorer_is_short() -> None:
    lines = [line for line in only("python", "class Warmth").splitlines() if line.strip()]
    code = [line for line in lines if not line.lstrip().startswith(("import ", "from ", "#"))]
    assert len(code) <= LINES
