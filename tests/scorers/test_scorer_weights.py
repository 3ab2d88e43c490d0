"""weights.py: files that are missing, damaged, dangerous or made for another model."""

from __future__ import annotations

import pickle
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from scorers import ScorerError
from scorers.weights import find_file, load_strict, looks_local, read_state

STATE = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return open, ("harmed", "w")  # type: ignore[return-value]


@pytest.mark.parametrize("content", [STATE, {"state_dict": STATE}, {"state_dict": {"module.weight": STATE["weight"]}}])
def test_a_pt_file_bare_or_under_its_key(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pt")
    assert torch.equal(read_state(tmp_path / "a.pt")["weight"], STATE["weight"])


def test_a_safetensors_file(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "a.safetensors")
    assert read_state(tmp_path / "a.safetensors").keys() == STATE.keys()


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a weight file at all", b"PK\x03\x04 cut"])
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ScorerError, match=name) as caught:
        read_state(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Harmful()}, "a.pt", pickle_module=pickle)
    with pytest.raises(ScorerError, match="more than tensors"):
        read_state(Path("a.pt"))
    assert not Path("harmed").exists()


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": [1]}, {"weight": 3}])
def test_a_file_without_a_state_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ScorerError, match="holds no state dict"):
        read_state(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"bias": STATE["bias"]}, r"1 missing \(weight\)"),
        ({**STATE, **{f"x{i}": STATE["bias"] for i in range(5)}}, r"5 unexpected \(x0, x1, x2, \.\.\.\)"),
        ({**STATE, "bias": torch.zeros(3)}, r"1 misshapen \(bias\)"),
    ],
)
def test_weights_of_another_model(state: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ScorerError, match=f"file does not fit: keys {message}. Try again."):
        load_strict(nn.Linear(3, 2), state, "file", "Try again.")


def test_fitting_weights_are_copied() -> None:
    layer = nn.Linear(3, 2)
    load_strict(layer, STATE, "file", "")
    assert torch.equal(layer.weight, STATE["weight"])


@pytest.mark.parametrize(
    ("model", "local"),
    [
        ("owner/name", False),
        ("name", False),
        ("./name", True),
        ("~/name", True),
        ("/a", True),
        ("a/b/c.pt", True),
    ],
)
def test_what_looks_like_a_path(model: str, local: bool) -> None:
    assert looks_local(model) is local


def test_a_missing_file_never_asks_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_: pytest.fail("the hub was asked"))
    with pytest.raises(ScorerError, match="no weight file"):
        find_file(str(tmp_path / "a.pt"), "owner/name", "w.pt")


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: str) -> str:
        raise OSError("no connection\nsecond line")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(ScorerError, match=r"w\.pt of 'owner/name' .*no connection\): give model=") as caught:
        find_file(None, "owner/name", "w.pt")
    assert "\n" not in str(caught.value)
