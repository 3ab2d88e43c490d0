"""A run killed twice, and parts of one put together, end in the bytes of the run that was never stopped."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench_fakes import Bright, draw_noise
from PIL import Image

from diffdpo.benchmarks import blocks as module
from diffdpo.benchmarks import registry
from diffdpo.benchmarks.blocks import Part, block_size, blocks, span_of
from diffdpo.benchmarks.merge import merge_parts
from diffdpo.benchmarks.registry import Options, Suite
from diffdpo.benchmarks.results import BenchRun, read_run
from diffdpo.benchmarks.suite import run_suite
from diffdpo.errors import UserError
from diffdpo.runs import read_json, write_json

N = 8
"""Prompts of each style: 32 images, in 4 blocks of 9 and of 5 at the end, each drawn 3 at a time."""
BATCH, BLOCK = 3, 9


@pytest.fixture(scope="module", autouse=True)
def small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AT_LEAST", BLOCK)
        yield


class Placed(Bright):
    """Depends on the place in the call as well, as the last bit of a real score may."""

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> torch.Tensor:
        return super().score(prompts, images) + torch.arange(len(images)) / 1e6


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    folder = tmp_path_factory.mktemp("data")
    for style in ("anime", "concept-art", "paintings", "photo"):
        (folder / f"{style}.json").write_text(json.dumps([f"{style} {place}" for place in range(N)]))
    return registry.find("hpsv2", Options(data=str(folder)))


@pytest.fixture(scope="module")
def whole(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> BenchRun:
    return bench(suite, tmp_path_factory.mktemp("whole") / "run")


def bench(suite: Suite, out: Path, **more: Any) -> BenchRun:
    options: dict[str, Any] = {"draw": draw_noise, "load_scorer": Placed, "batch_size": BATCH, **more}
    return run_suite(suite, out, scorers=["bright", "reddish"], settings={"model": "noise"}, **options)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_killed_while_it_draws_and_while_it_scores(suite: Suite, whole: BenchRun, tmp_path: Path) -> None:
    def die_after(calls: int) -> Any:
        left = iter(range(calls))

        def count() -> None:
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        return count

    drawn, scored = die_after(5), die_after(6)

    def dying_draw(prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        drawn()
        return draw_noise(prompts, seeds)

    class Dying(Placed):
        def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> torch.Tensor:
            scored()
            return super().score(prompts, images)

    out = tmp_path / "run"
    for more, left in (({"draw": dying_draw}, 15), ({"load_scorer": Dying}, 4 * N)):
        child = os.fork()
        if child == 0:
            try:
                bench(suite, out, **more)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGKILL
        assert len(list((out / "images").rglob("*.png"))) == left
    assert len(list((out / "scored").glob("*/*.json"))) == 6  # four blocks of the first scorer, two of the second

    calls = 0

    class Counting(Placed):
        def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> torch.Tensor:
            nonlocal calls
            calls += 1
            return super().score(prompts, images)

    bench(suite, out, load_scorer=Counting)
    assert calls == 2  # what was scored is not scored again
    assert files(out) == files(whole.folder)


@pytest.mark.parametrize("count", [2, 3])
def test_parts_put_together_are_the_whole(suite: Suite, whole: BenchRun, tmp_path: Path, count: int) -> None:
    folders = [tmp_path / f"part-{number}" for number in range(count)]
    for number, folder in enumerate(folders):
        part = bench(suite, folder, part=Part(number + 1, count))
        assert part.settings["part"] == f"{number + 1}/{count}"
    with pytest.raises(UserError, match=f"part 1/{count} of a run; put the parts together"):
        read_run(folders[0])
    merge_parts(reversed(folders), tmp_path / "merged", suite="hpsv2")  # type: ignore[arg-type]
    assert files(tmp_path / "merged") == files(whole.folder)


def test_parts_of_given_images(suite: Suite, whole: BenchRun, tmp_path: Path) -> None:
    given = whole.folder / "images"
    once = bench(suite, tmp_path / "once", draw=None, images=given)
    for number in (1, 2):
        bench(suite, tmp_path / f"{number}", draw=None, images=given, part=Part(number, 2))
    merge_parts([tmp_path / "1", tmp_path / "2"], tmp_path / "merged", suite="hpsv2")
    assert files(tmp_path / "merged") == files(once.folder)
    assert once.summary["figures"] == whole.summary["figures"]


def test_parts_that_do_not_fit(suite: Suite, whole: BenchRun, tmp_path: Path) -> None:
    def merge(*names: str) -> None:
        merge_parts([tmp_path / name for name in names], tmp_path / "merged", suite="hpsv2")

    for number in (1, 2):
        bench(suite, tmp_path / f"{number}", part=Part(number, 2))
    bench(suite, tmp_path / "other", part=Part(2, 2), seed=1)
    with pytest.raises(UserError, match="14 images are in none of the parts 1/2: 00018 to 00031"):
        merge("1")
    with pytest.raises(UserError, match="image 0 is in another part as well"):
        merge("1", "1")
    with pytest.raises(UserError, match="parts of different runs, seed is 0 and 1"):
        merge("1", "other")
    with pytest.raises(UserError, match="a part of `bench hpsv2`, not of `bench parti`"):
        merge_parts([tmp_path / "1"], tmp_path / "merged", suite="parti")
    with pytest.raises(UserError, match="a whole run, not a part of one"):
        merge_parts([whole.folder], tmp_path / "merged", suite="hpsv2")
    assert not (tmp_path / "merged").exists()
    manifest = read_json(tmp_path / "2" / "manifest.json")
    manifest["versions"]["torch"] = "9.0"
    write_json(tmp_path / "2" / "manifest.json", manifest)
    merge("1", "2")
    assert read_run(tmp_path / "merged").manifest["versions"]["torch"].endswith(" and 9.0")


def test_spans_are_whole_blocks_and_cover_all() -> None:
    assert [block_size(batch) for batch in (1, 3, 4, 9, 10)] == [9, 9, 12, 9, 10]
    for count, batch, of in ((32, 3, 4), (3200, 8, 7), (10, 9, 2)):
        spans = [span_of(Part(number + 1, of), count, batch) for number in range(of)]
        assert [index for span in spans for index in span] == list(range(count))
        assert [block for span in spans for block in blocks(span, batch)] == list(blocks(range(count), batch))
    with pytest.raises(UserError, match="32 images are 4 blocks of 9, which stay whole: 4 parts at most"):
        span_of(Part(1, 5), 32, 3)
    for text in ("0/2", "3/2", "1", "1/2/3", "-1/2"):
        with pytest.raises(UserError, match="as in 1/2 and 2/2"):
            Part.parse(text)


def test_images_of_another_make_in_the_publishers_layout(suite: Suite, tmp_path: Path) -> None:
    given = tmp_path / "given"
    for place in range(N):
        for style, name in (
            ("anime", f"{place:05d}.jpg"),
            ("concept-art", f"{place}.png"),
            ("paintings", f"{place:05d}.webp"),
            ("photo", f"{place:05d}.JPEG"),
        ):
            (given / style).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 4, 3), place, dtype=np.uint8)).save(given / style / name)
    found = bench(suite, tmp_path / "run", draw=None, images=given)
    assert found.rows[1].image == "images/concept-art/00000.png"
    assert found.rows[3].image == "images/photo/00000.jpeg"
    for gone in ("anime/00003.jpg", "anime/00004.jpg", "anime/00005.jpg", "photo/00007.JPEG"):
        (given / gone).unlink()
    (given / "concept-art" / "6.png").write_bytes(b"torn")
    with pytest.raises(UserError) as error:
        bench(suite, tmp_path / "again", draw=None, images=given)
    assert str(error.value) == (
        f"{given}: 4 of 32 images are missing: anime/00003 to anime/00005, photo/00007 (png, jpg or webp); "
        "1 of 32 images cannot be read: concept-art/00006"
    )
    assert not (tmp_path / "again").exists()
