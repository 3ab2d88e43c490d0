"""The rehearsal of the GPU's checks on a CPU, and what the shell does when one of them crashes."""

import json
import os
import subprocess
from pathlib import Path

import gpu_check
import pytest

SCRIPT = Path(gpu_check.__file__).with_name("gpu_check.sh")


@pytest.mark.parametrize("name", ["matmul", "fp16_scaler", "text"])
def test_a_check_writes_its_file(name, tmp_path):
    """The quick ones; the others run with `scripts/gpu_check.sh --tiny`."""
    gpu_check.main([name, "--tiny", "--out", str(tmp_path)])
    found = json.loads((tmp_path / f"{name}.json").read_text())
    assert found["check"] == name
    assert found["machine"]["torch"]
    if name == "fp16_scaler":
        assert found["passed"]


def test_a_check_that_did_not_pass_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(gpu_check.CHECKS, "matmul", lambda place: {"passed": False})
    with pytest.raises(SystemExit, match="matmul: not passed"):
        gpu_check.main(["matmul", "--tiny", "--out", str(tmp_path)])
    assert json.loads((tmp_path / "matmul.json").read_text())["passed"] is False


def test_no_list_of_checks_is_an_error(tmp_path):
    environment = {**os.environ, "PYTHON": "false"}
    assert subprocess.run(["bash", str(SCRIPT), str(tmp_path)], env=environment).returncode == 1


def test_a_crash_of_one_check_loses_none_of_the_others(tmp_path):
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\nshift\n[ "$1" = --list ] && { echo a; echo b; echo c; exit; }\n'
        '[ "$1" = b ] && { echo "the GPU is gone"; kill -SEGV $$; }\necho "$@" > "$3/$1.json"\n'
    )
    python.chmod(0o755)
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.json").write_text("of an earlier run")
    done = subprocess.run(
        ["bash", str(SCRIPT), str(out), "--tiny"],
        env={**os.environ, "PYTHON": str(python)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert sorted(path.name for path in out.glob("*.json")) == ["a.json", "c.json"]
    assert (out / "a.json").read_text() == f"a --out {out} --tiny\n"
    assert "the GPU is gone" in done.stdout
    assert "b: status 139" in done.stdout
