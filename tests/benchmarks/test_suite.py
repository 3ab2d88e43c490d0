from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_fakes import PROMPTS, Bright, draw_noise, draw_scenes, plain_suite
from PIL import Image

from diffdpo.benchmarks import registry
from diffdpo.benchmarks.look import look
from diffdpo.benchmarks.results import BenchRun
from diffdpo.benchmarks.suite import run_suite
from diffdpo.errors import UserError
from diffdpo.shapes.scene import parse_caption


class Killed(Exception):
    pass


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def run(out: Path, draw: object = draw_noise) -> BenchRun:
    return run_suite(plain_suite(), out, draw=draw, load_scorer=Bright, batch_size=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("killed_after", [0, 1, 2])
def test_a_killed_run_goes_on_and_ends_the_same(tmp_path: Path, killed_after: int) -> None:
    calls = 0

    def dying(prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        nonlocal calls
        if calls == killed_after:
            raise Killed
        calls += 1
        return draw_noise(prompts, seeds)

    run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "killed", dying)
    assert run(tmp_path / "killed").prompts == list(PROMPTS)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_torn_and_lost_images_are_drawn_again(tmp_path: Path) -> None:
    class Dying(Bright):
        def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> torch.Tensor:
            raise Killed

    run(tmp_path / "whole")
    with pytest.raises(Killed):
        run_suite(plain_suite(), tmp_path / "run", draw=draw_noise, load_scorer=Dying, batch_size=3)
    images = tmp_path / "run" / "images"
    (images / "00001.png").write_bytes((images / "00001.png").read_bytes()[:60])
    (images / "00005.png").unlink()
    run(tmp_path / "run")
    assert files(tmp_path / "run") == files(tmp_path / "whole")


def test_a_finished_run_is_read_and_not_made_again(tmp_path: Path) -> None:
    def never(prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        raise AssertionError

    first = run(tmp_path / "run")
    assert run(tmp_path / "run", never) == first
    with pytest.raises(UserError, match=r"other settings .*seed"):
        run_suite(plain_suite(), tmp_path / "run", draw=never, load_scorer=Bright, seed=1)


def test_given_images_are_scored(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    for index in range(len(PROMPTS)):
        suffix = ("png", "jpg", "webp")[index % 3]
        Image.new("RGB", (6, 4), (10 * index,) * 3).save(given / f"{index}.{suffix}")
    (given / "notes.txt").write_text("of no matter")
    found = run_suite(plain_suite(), tmp_path / "run", images=given, load_scorer=Bright)
    assert found.rows[2].image == "images/00002.webp"
    assert [row.seed for row in found.rows] == [None] * len(PROMPTS)
    assert [row.scores["bright"] for row in found.rows] == pytest.approx(
        [10 * index for index in range(len(PROMPTS))], abs=2
    )


def test_images_of_other_prompts_are_refused(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    for index in range(len(PROMPTS)):
        Image.new("RGB", (4, 4)).save(given / f"{index:05d}.png")
    told = [json.dumps({"index": index, "prompt": prompt}) for index, prompt in enumerate(PROMPTS)]
    (given / "prompts.jsonl").write_text("\n".join(told))
    run_suite(plain_suite(), tmp_path / "run", images=given, load_scorer=Bright)
    told[1] = json.dumps({"index": 1, "prompt": "a car"})
    (given / "prompts.jsonl").write_text("\n".join(told))
    with pytest.raises(UserError, match=r"prompts\.jsonl: image 00001 was drawn for 'a car', and the suite's prompt"):
        run_suite(plain_suite(), tmp_path / "other", images=given, load_scorer=Bright)


def test_missing_broken_and_double_images_are_named(tmp_path: Path) -> None:
    def given() -> None:
        run_suite(plain_suite(), tmp_path / "run", images=tmp_path, load_scorer=Bright)

    for index in range(len(PROMPTS) - 1):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{index:05d}.png")
    with pytest.raises(UserError, match="1 of 7 images are missing: 00006"):
        given()
    (tmp_path / "00006.png").write_bytes((tmp_path / "00005.png").read_bytes()[:40])
    with pytest.raises(UserError, match="1 of 7 images cannot be read: 00006"):
        given()
    Image.new("RGB", (4, 4)).save(tmp_path / "6.jpg")
    with pytest.raises(UserError, match=r"00006\.png and 6\.jpg are both image 6"):
        given()


def test_a_score_that_is_none_is_refused(tmp_path: Path) -> None:
    class Broken(Bright):
        def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> torch.Tensor:
            return torch.full((len(images),), float("nan"))

    with pytest.raises(UserError, match=r"00000\.png: scorer 'bright' gave nan"):
        run_suite(plain_suite(), tmp_path / "run", draw=draw_noise, load_scorer=Broken)


def test_unknown_names() -> None:
    with pytest.raises(UserError, match="unknown suite 'shape': did you mean 'shapes'"):
        registry.find("shape")
    with pytest.raises(UserError, match="unknown scorer 'brigt'"):
        run_suite(plain_suite(), "never", draw=draw_noise, scorers=["brigt"])


def test_shapes_suite_is_fixed() -> None:
    suite = registry.find("shapes")
    captions = tuple(case.prompt for case in suite.take(None))
    scenes = [parse_caption(caption) for caption in captions]
    assert len(set(captions)) == 320
    assert all(scene.held_out for scene in scenes)
    assert Counter(len(scene.things) for scene in scenes) == {2: 311, 1: 9}
    cells = Counter((scene.relation, scene.background) for scene in scenes if scene.second is not None)
    assert len(cells) == 12
    assert set(cells.values()) == {25, 26}
    assert suite.take(None) == registry.find("shapes").take(320)
    assert suite.take(50) == suite.take(None)[:50]
    assert suite.seed(0, 0) == 2967462613
    assert len({suite.seed(seed, index) for seed in range(3) for index in range(320)}) == 960
    with pytest.raises(UserError, match="takes 2 to"):
        suite.take(100_000)


def test_perfect_scenes_are_exact(tmp_path: Path) -> None:
    found = run_suite(
        registry.find("shapes"), tmp_path, draw=draw_scenes(1.0), scorers=[], limit=40, load_scorer=Bright
    )
    assert found.summary["parts"]["exact"]["mean"] == 1.0
    assert found.summary["parts"]["exact"]["low"] < 1.0
    assert found.rows[1].categories.keys() == {"number of things", "relation", "background"}
    assert set(found.summary["categories"]["number of things"]) == {"one", "two"}


def test_look_by_hand() -> None:
    red = look(Image.new("RGB", (4, 4), (255, 0, 0)))
    flat = red.pop("jpeg_size")
    assert red == {"saturation": 1.0, "contrast": 0.0, "sharpness": 0.0}
    board = np.indices((8, 8)).sum(axis=0) % 2 * 255
    checkered = look(Image.fromarray(np.repeat(board[..., None], 3, axis=2).astype(np.uint8)))
    assert checkered["saturation"] == 0
    assert checkered["contrast"] == pytest.approx(0.5)
    # Inside, all four neighbours are of the other tone; at an edge one of them is the pixel itself.
    assert checkered["sharpness"] == pytest.approx((36 + 24 * 0.75 + 4 * 0.5) / 64)
    assert checkered["jpeg_size"] > flat > 0


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    def drawing(prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        with pytest.raises(UserError, match="another diffdpo is working there"):
            run(tmp_path / "run")
        return draw_noise(prompts, seeds)

    assert len(run(tmp_path / "run", drawing).rows) == len(PROMPTS)


def test_given_images_that_cannot_be_scored_leave_no_folder(tmp_path: Path) -> None:
    class Broken(Bright):
        def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> torch.Tensor:
            raise UserError("no")

    given = run(tmp_path / "drawn").folder / "images"
    with pytest.raises(UserError, match="no"):
        run_suite(plain_suite(), tmp_path / "run", images=given, load_scorer=Broken)
    assert not (tmp_path / "run").exists()
