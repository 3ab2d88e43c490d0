"""registry.py: names, third parties through entry points, and the error lines. No model is loaded here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import scorers
from scorers import ScorerError
from scorers.registry import BUILT_IN

ROOT = Path(__file__).parents[2]

MODULE = """
class Constant:
    name, scale, settings = "constant", "always 1", {}
    def __init__(self, model=None, device="cpu", dtype=None, value=1.0):
        self.arguments = (model, device, dtype, value)
    def score(self, prompts, images):
        return [self.arguments[-1]] * len(prompts)

def useless(model=None, device="cpu", dtype=None):
    return object()

def greedy(model=None, device="cpu", dtype=None, **options):
    constant = Constant()
    constant.settings = options
    return constant

number = 3
"""

POINTS = """[diffdpo.scorers]
constant = third_party_scorer:Constant
useless = third_party_scorer:useless
greedy = third_party_scorer:greedy
number = third_party_scorer:number
absent = third_party_scorer:absent
broken = third_party_broken:Scorer
hpsv2 = third_party_scorer:Constant
"""


def install(folder: Path, package: str, points: str) -> None:
    """What pip leaves behind for a package with entry points."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    install(tmp_path, "extra", POINTS)
    (tmp_path / "third_party_scorer.py").write_text(MODULE)
    (tmp_path / "third_party_broken.py").write_text("raise RuntimeError('first line\\nsecond line')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("third_party_scorer", "third_party_broken"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return tmp_path


def message(name: str, **options: object) -> str:
    """The error of loading `name`, which must be one line."""
    with pytest.raises(ScorerError) as caught:
        scorers.load(name, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_built_in_names() -> None:
    assert {"pickscore", "hpsv2", "hpsv2.1", "imagereward", "aesthetic", "clipscore"} <= set(scorers.names())


def test_names_imports_no_model_library() -> None:
    code = (
        "import sys, scorers; scorers.names(); "
        "print(sorted({'torch', 'transformers', 'open_clip', 'PIL', 'numpy'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_an_unknown_name_imports_no_model_library() -> None:
    code = (
        "import sys, scorers\ntry: scorers.load('pikscore')\nexcept scorers.ScorerError: print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_an_unknown_name_gets_the_nearest_and_all_names() -> None:
    line = message("pikscore")
    assert "did you mean 'pickscore'?" in line
    assert all(name in line for name in BUILT_IN)


def test_an_unknown_option_gets_the_nearest_and_all_options() -> None:
    line = message("hpsv2", antialiasing=True)
    assert "no option 'antialiasing', did you mean 'antialias'?" in line
    assert "batch_size" in line


@pytest.mark.usefixtures("third_party")
def test_a_third_party_is_listed_after_the_built_in_ones() -> None:
    names = scorers.names()
    assert names[: len(BUILT_IN)] == list(BUILT_IN)
    assert "constant" in names
    assert len(names) == len(set(names))


@pytest.mark.usefixtures("third_party")
def test_a_third_party_gets_all_arguments() -> None:
    scorer = scorers.load("constant", model="m", device="cuda", dtype="fp16", value=2.0)
    assert scorer.arguments == ("m", "cuda", "fp16", 2.0)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("third_party")
def test_a_third_party_may_take_any_option() -> None:
    assert scorers.load("greedy", colour="blue").settings == {"colour": "blue"}


@pytest.mark.usefixtures("third_party")
def test_a_built_in_name_cannot_be_taken_over() -> None:
    assert "architecture" in message("hpsv2", value=1.0)


@pytest.mark.usefixtures("third_party")
@pytest.mark.parametrize(
    ("name", "part"),
    [
        (
            "broken",
            "package 'extra' cannot be loaded from 'third_party_broken:Scorer': RuntimeError: first line",
        ),
        ("absent", "AttributeError"),
        ("number", "not callable"),
        ("useless", "has no name, scale, settings, score"),
    ],
)
def test_a_broken_third_party_is_named_when_it_is_loaded(name: str, part: str) -> None:
    assert name in scorers.names()
    assert part in message(name)


def test_two_packages_with_one_name(third_party: Path) -> None:
    install(third_party, "rival", "[diffdpo.scorers]\nconstant = elsewhere:Constant\n")
    assert "several packages (package 'extra', package 'rival')" in message("constant")


def test_the_same_package_seen_twice_is_no_conflict(third_party: Path) -> None:
    install(third_party / "copy", "extra", POINTS)
    sys.path.append(str(third_party / "copy"))
    try:
        assert scorers.load("constant").name == "constant"
    finally:
        sys.path.remove(str(third_party / "copy"))


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILT_IN, "needy", "a_library_that_is_not_there:Scorer")
    assert "needs 'a_library_that_is_not_there', which is not installed" in message("needy")
