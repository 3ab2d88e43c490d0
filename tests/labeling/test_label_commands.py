import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch._dynamo.exc import BackendCompilerFailed

from diffdpo.commands import generate, label
from diffdpo.data.triplets import TripletStore
from diffdpo.errors import UserError
from scorers import ScorerError

ROOT = Path(__file__).parents[2]


def parse(command: Any, *words: Any) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def run(command: Any, *words: Any) -> dict[str, Any]:
    result: dict[str, Any] = command.run(parse(command, *words))
    json.dumps(result)
    command.show(result)
    return result


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def prompts_file(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\na dog\nrain\na fish\n")
    return path


@pytest.fixture
def words(tiny_model: Path, prompts_file: Path, plugins: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `label` and `generate` have in common, on the tiny model; the third-party scorer is installed."""
    monkeypatch.syspath_prepend(plugins)
    return [
        "--model",
        tiny_model,
        "--prompts",
        prompts_file,
        "--steps",
        2,
        "--device",
        "cpu",
        "--batch-size",
        3,
    ]


@pytest.fixture
def label_words(words: list[Any]) -> list[Any]:
    return [*words, "--scorer", "brightness", "--candidates", 2, "--shard-size", 1]


def killed_in_third_shard(words: list[Any], plugins: Path, ready: Path) -> None:
    """Run `label` as a process of its own, and SIGKILL it once it scores its third shard."""
    code = (
        "import argparse, sys; from diffdpo.commands import label; p = argparse.ArgumentParser(); "
        "label.add_arguments(p); label.run(p.parse_args(sys.argv[1:]))"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{plugins}", "STALL": f"3:{ready}"}
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], env=environment, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 600
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise AssertionError(process.communicate()[1])
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.communicate()


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path, label_words: list[Any], plugins: Path) -> None:
    run(label, *label_words, "--out", tmp_path / "whole")
    killed_in_third_shard([*label_words, "--out", tmp_path / "killed"], plugins, tmp_path / "ready")
    assert sorted(path.name for path in (tmp_path / "killed").glob("part-*")) == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]
    (tmp_path / "killed" / "part-00002.parquet.partial").write_bytes(b"half")
    run(label, *label_words, "--out", tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_label_makes_a_store_of_the_models_images(tmp_path: Path, label_words: list[Any]) -> None:
    result = run(label, *label_words, "--out", tmp_path / "out")
    store = TripletStore.open(tmp_path / "out")
    assert (result["pairs"], len(store), store.captions[0]) == (4, 4, "a cat")


def test_label_records_the_model_by_name_and_content(tmp_path: Path, label_words: list[Any], tiny_model: Path) -> None:
    run(label, *label_words, "--out", tmp_path / "out")
    settings = json.loads((tmp_path / "out" / "manifest.json").read_text())["settings"]
    assert settings["model"]["name"] == "tiny"
    assert len(settings["model"]["sha256"]) == 64
    assert (settings["steps"], settings["dtype"], settings["scorers"]["brightness"]["scorer"]) == (
        2,
        "float32",
        "brightness",
    )
    assert str(tiny_model.parent) not in json.dumps(settings)


def test_label_refuses_other_settings_by_name(tmp_path: Path, label_words: list[Any]) -> None:
    run(label, *label_words, "--out", tmp_path / "out")
    with pytest.raises(UserError, match=r"guidance: there 7\.5, now 3\.0"):
        run(label, *label_words, "--guidance", 3, "--out", tmp_path / "out")


def test_a_dry_run_counts_and_writes_nothing(
    tmp_path: Path, label_words: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(label, *label_words, "--pairs", "all", "--dry-run", "--out", tmp_path / "out")
    assert (result["images"], result["pairs_at_most"], result["shards"], result["state"]) == (8, 4, 4, "new")
    assert not (tmp_path / "out").exists()
    assert "would make 8 images" in (printed := capsys.readouterr().out)
    assert result["memory_gb"] > 0
    assert "GB for the model's weights" in printed


@pytest.mark.parametrize("combine", [[], ["--combine", "rank"], ["--weights", "1", "0.5"]])
def test_label_says_in_a_line_how_far_the_scorers_agree(
    tmp_path: Path, label_words: list[Any], combine: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*label_words, "--candidates", 3, "--scorer", "shapes-pickscore", *combine]
    result = run(label, *words, "--out", tmp_path / "out")
    [line] = [line for line in capsys.readouterr().err.splitlines() if "agreement" in line]
    [row] = result["agreement"]
    assert row["scorers"] == ["brightness", "shapes-pickscore"]
    assert f"brightness and shapes-pickscore: Kendall tau-b {row['kendall_tau_b']:.3f}" in line
    assert f"same preference in {row['pair_agreement']:.1%} of pairs" in line


def test_label_asks_a_vision_language_model(
    tmp_path: Path, label_words: list[Any], judge_server: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "judge.json"
    options = {"endpoint": judge_server[0], "model": "seeing", "cache": str(tmp_path / "cache")}
    file.write_text(json.dumps(options))
    words = [*label_words, "--scorer", f"vlm-judge={file}", "--combine", "first"]
    result = run(label, *words, "--out", tmp_path / "out")
    assert result["mean_scores"]["vlm-judge"] == 7
    assert len(judge_server) == 1 + 8
    settings = json.loads((tmp_path / "out" / "manifest.json").read_text())["settings"]
    assert settings["scorers"]["vlm-judge"]["model"] == "seeing"
    run(label, *words, "--out", tmp_path / "again")
    assert len(judge_server) == 1 + 8
    assert "one of them sees no difference" in capsys.readouterr().err


@pytest.fixture
def judge_server() -> Iterator[list[str]]:
    """[the URL of a chat-completions server that finds every image a 7, then the body of each request]."""
    bodies: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"choices": [{"message": {"content": "7"}}]}')

        def log_message(self, *arguments: Any) -> None:
            """Not into the tests' output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        bodies.append(f"http://127.0.0.1:{server.server_port}/v1")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield bodies
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (["--combine", "rank"], UserError, "for several scorers, and there is one"),
        (["--scorer", "shapes-exact", "--combine", "best"], UserError, "unknown combination 'best'"),
        (["--scorer", "shapes-exact", "--weights", "1"], ScorerError, "1 weights for 2 scorers"),
        (["--model", "nowhere"], UserError, "model 'nowhere': no such file or folder"),
        (["--scorer", "brightnes"], UserError, "unknown scorer 'brightnes': did you mean 'brightness'"),
        (["--scorer", "brightness"], UserError, "scorer 'brightness' is given twice"),
        (["--scorer", "pickscore=/nowhere"], UserError, "/nowhere: no such file or folder"),
        (["--prompts", "none.txt"], UserError, "none.txt: no such file"),
        (["--candidates", "1"], UserError, "at least 2"),
        (["--precision", "fp8"], UserError, "unknown precision 'fp8'"),
        (["--out", "."], UserError, "not empty and not made by diffdpo"),
        (["--lora", "nolora"], UserError, "LoRA 'nolora': no such file or folder"),
    ],
    ids=[
        "combine-one",
        "combine",
        "weights-number",
        "model",
        "scorer",
        "twice",
        "weights",
        "prompts",
        "candidates",
        "precision",
        "out",
        "lora",
    ],
)
def test_a_dry_run_finds_what_is_wrong(
    tmp_path: Path, label_words: list[Any], change: list[str], error: type[Exception], message: str
) -> None:
    (tmp_path / "something.txt").touch()
    change = [str(tmp_path) if word == "." else word for word in change]
    with pytest.raises(error, match=message):
        run(label, *label_words, "--out", tmp_path / "out", *change, "--dry-run")


def test_generate_makes_an_image_per_line(tmp_path: Path, words: list[Any], prompts_file: Path) -> None:
    prompts_file.write_text("a cat\na dog\na cat\n")
    run(generate, *words, "--out", tmp_path / "out")
    images = [(tmp_path / "out" / f"{index:05d}.png").read_bytes() for index in range(3)]
    rows = [json.loads(line) for line in (tmp_path / "out" / "prompts.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["a cat", "a dog", "a cat"]
    assert images[0] != images[2]


def test_generate_makes_only_what_is_missing(tmp_path: Path, words: list[Any]) -> None:
    run(generate, *words, "--out", tmp_path / "out")
    before = contents(tmp_path / "out")
    manifest = json.loads(before["manifest.json"])
    del manifest["results"]
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest | {"complete": False}))
    (tmp_path / "out" / "00003.png").unlink()
    old = (tmp_path / "out" / "00000.png").stat().st_mtime_ns
    run(generate, *words, "--out", tmp_path / "out")
    assert contents(tmp_path / "out") == before
    assert (tmp_path / "out" / "00000.png").stat().st_mtime_ns == old


def test_the_commands_are_imported_without_the_heavy_libraries() -> None:
    code = (
        "import sys; from diffdpo.commands import generate, label, score; "
        "print({'torch', 'numpy', 'pyarrow', 'PIL', 'diffusers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("change", [["--guidance", 3], ["--candidates", 3], ["--scorer", "shapes-pickscore"]])
def test_a_dry_run_compares_with_the_folder_that_is_there(
    tmp_path: Path, label_words: list[Any], change: list[Any]
) -> None:
    words = [*label_words, "--out", tmp_path / "out"]
    run(label, *words)
    assert run(label, *words, "--dry-run")["state"] == "complete"
    with pytest.raises(UserError, match=f"made with other settings .*{change[-1]}"):
        run(label, *words, *change, "--dry-run")


def test_a_dry_run_of_generate_compares_with_the_folder_that_is_there(tmp_path: Path, words: list[Any]) -> None:
    run(generate, *words, "--out", tmp_path / "out")
    assert run(generate, *words, "--out", tmp_path / "out", "--dry-run")["state"] == "complete"
    with pytest.raises(UserError, match="seed: there 0, now 1"):
        run(generate, *words, "--seed", 1, "--out", tmp_path / "out", "--dry-run")


def test_compile_is_of_the_networks_blocks_and_counts_as_a_setting(
    tmp_path: Path, words: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []

    def counted(call: Any, backend: str) -> Any:
        assert backend == "inductor"
        return lambda *args, **keywords: called.append(type(call.__self__).__name__) or call(*args, **keywords)

    monkeypatch.setattr(torch, "compile", counted)
    run(generate, *words, "--out", tmp_path / "plain")
    assert not called
    run(generate, *words, "--compile", "--out", tmp_path / "compiled")
    assert set(called) == {"BasicTransformerBlock", "ResnetBlock2D"}
    plain, compiled = contents(tmp_path / "plain"), contents(tmp_path / "compiled")
    assert "compile" not in json.loads(plain.pop("manifest.json"))["settings"]
    assert json.loads(compiled.pop("manifest.json"))["settings"]["compile"] is True
    assert compiled == plain
    with pytest.raises(UserError, match="compile: there true, now null"):
        run(generate, *words, "--out", tmp_path / "compiled")


def test_a_compiler_that_does_not_work_is_told_in_a_line(
    tmp_path: Path, label_words: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(call: Any, backend: str) -> Any:
        def refuse(*args: Any, **keywords: Any) -> Any:
            raise BackendCompilerFailed("inductor", RuntimeError("no compiler\nhere"), None)

        return refuse

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(ScorerError, match=r"^torch.compile does not work here \(no compiler\): leave compile out$"):
        run(label, *label_words, "--compile", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(
    not os.environ.get("DIFFDPO_TEST_COMPILE"),
    reason="a C++ compiler takes minutes on a small machine: DIFFDPO_TEST_COMPILE=1 runs it",
)
def test_compiled_images_are_those_of_the_plain_model(tmp_path: Path, words: list[Any]) -> None:
    for name, compiled in (("plain", []), ("compiled", ["--compile"])):
        run(generate, *words, *compiled, "--out", tmp_path / name)
    for index in range(4):
        a, b = (np.asarray(Image.open(tmp_path / name / f"{index:05d}.png"), int) for name in ("plain", "compiled"))
        assert abs(a - b).max() <= 1
