"""The published files load in their formats: small ones here, and the real ones where they are at hand."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffdpo.benchmarks import registry
from diffdpo.benchmarks.registry import Options, Suite, mixed
from diffdpo.benchmarks.results import Row
from diffdpo.benchmarks.suites import geneval, hpsv2
from diffdpo.errors import UserError

SHARED = Path(os.environ.get("DIFFDPO_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))

TASKS = [
    {"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": "a photo of a cat"},
    {
        "tag": "position",
        "include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["left of", 0]}],
        "prompt": "a photo of a dog left of a cat",
    },
]


def real(name: str) -> str:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return str(path)


def hps_folder(folder: Path, count: int = 5) -> str:
    (folder / "benchmark").mkdir()
    for style in ("anime", "concept-art", "paintings", "photo"):
        prompts = [f"{style} {place // 2}" for place in range(count)]  # with repeated ones, which count by place
        (folder / "benchmark" / f"{style}.json").write_text(json.dumps(prompts))
    return str(folder)


def test_hpsv2_goes_round_the_styles_and_keeps_the_layout(tmp_path: Path) -> None:
    suite = registry.find("hpsv2", Options(data=hps_folder(tmp_path)))
    assert [case.name for case in suite.take(6)] == [
        "anime/00000",
        "concept-art/00000",
        "paintings/00000",
        "photo/00000",
        "anime/00001",
        "concept-art/00001",
    ]
    assert suite.cases[19].prompt == "photo 2"
    assert suite.cases[19].categories == {"style": "photo"}
    assert len(suite.files) == 4
    photo = registry.find("hpsv2", Options(data=str(tmp_path), styles=("photo",)))
    assert [case.name for case in photo.cases] == [f"photo/{place:05d}" for place in range(5)]
    one = registry.find("hpsv2", Options(data=str(tmp_path / "benchmark" / "anime.json"), styles=("anime",)))
    assert [case.prompt for case in one.cases] == [f"anime {place // 2}" for place in range(5)]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("hpsv2", {"data": "none"}, "--data none: no such file or folder"),
        ("hpsv2", {"data": "."}, r"--data \.: has no anime\.json or anime\.txt"),
        ("hpsv2", {"data": "table.csv"}, "one file has the prompts of one style; say which with --style"),
        ("hpsv2", {"styles": ("foto",)}, "unknown style 'foto': did you mean 'photo'"),
        ("pickapic", {"split": "train"}, "unknown split 'train'"),
        ("parti", {"data": "table.csv", "split": "test"}, "--split test: goes with `bench pickapic`, not with 'parti'"),
        ("geneval", {}, r"name the file or its folder with --data: evaluation_metadata\.jsonl of djghosh13/geneval"),
        ("geneval", {"data": "tasks.jsonl", "repeats": 0}, "--repeat 0: at least 1"),
        ("geneval", {"data": "bad.jsonl"}, r"bad\.jsonl: line 2: position \['behind', 0\] names no relation"),
        ("shapes", {"data": "x"}, "--data x: goes with `bench hpsv2` or"),
        ("drawbench", {"data": "table.csv"}, "line 3: 'Prompts' must be a text"),
    ],
)
def test_what_cannot_be_used(
    name: str, options: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("table.csv").write_text("Prompts,Category\na cat,Colors\n,Colors\n")
    Path("tasks.jsonl").write_text("\n".join(map(json.dumps, TASKS)))
    wrong = {**TASKS[1], "include": [TASKS[0]["include"][0], {"class": "dog", "count": 1, "position": ["behind", 0]}]}
    Path("bad.jsonl").write_text(f"{json.dumps(TASKS[0])}\n{json.dumps(wrong)}\n")
    with pytest.raises(UserError, match=message):
        registry.find(name, Options(**options))  # type: ignore[arg-type]


def test_pickapic_takes_each_caption_once_and_no_images(tmp_path: Path) -> None:
    columns = {"caption": ["a", "b", "a"], "jpg_0": [b"1", b"2", b"3"]}
    pq.write_table(pa.table(columns), tmp_path / "test_unique-00000-of-00001-abc.parquet")
    pq.write_table(pa.table({"caption": ["c", "d"]}), tmp_path / "validation_unique-00000-of-00001-abc.parquet")
    suite = registry.find("pickapic", Options(data=str(tmp_path), split="test"))
    assert [(case.prompt, case.name) for case in suite.cases] == [("a", "00000"), ("b", "00001")]
    assert suite.settings == {"split": "test"}
    assert [case.prompt for case in registry.find("pickapic", Options(data=str(tmp_path))).cases] == ["c", "d"]


def test_drawbench_with_and_without_categories(tmp_path: Path) -> None:
    (tmp_path / "DrawBench.csv").write_text('Prompts,Category\n"a, b",Colors\nc,Text\nd,Text\n')
    table = registry.find("drawbench", Options(data=str(tmp_path)))
    assert [(case.prompt, case.name) for case in table.cases] == [("c", "00001"), ("a, b", "00000"), ("d", "00002")]
    (tmp_path / "drawbench.json").write_text('["a", "b"]')
    bare = registry.find("drawbench", Options(data=str(tmp_path / "drawbench.json")))
    assert [case.categories for case in bare.cases] == [{}, {}]


def test_geneval_repeats_and_its_figures(tmp_path: Path) -> None:
    (tmp_path / "evaluation_metadata.jsonl").write_text("\n".join(map(json.dumps, TASKS)))
    suite = registry.find("geneval", Options(data=str(tmp_path), repeats=2, detector="a/b"))
    assert [case.name for case in suite.take(2)] == [f"{n:05d}/samples/{k:04d}" for n in range(2) for k in range(2)]
    assert suite.settings["detector"] == "a/b"
    right = [True, False, False, False]
    rows = [
        Row(place, case.prompt, 0, "x", {}, parts={"exact": right[place]}, categories=dict(case.categories))
        for place, case in enumerate(suite.cases)
    ]
    found = geneval.figures(rows, {}, {"images_per_prompt": 2})
    assert found == {
        "tasks": {"single_object": 0.5, "position": 0.0},
        "overall": 0.25,
        "images": 0.25,
        "prompts": 0.5,
    }
    assert "0.25000" in geneval.table(found)


def test_an_order_that_keeps_the_mix() -> None:
    kinds = "aaaabbc"
    cases = [registry.Case(str(place), str(place), {"kind": kind}) for place, kind in enumerate(kinds)]
    ordered = mixed(cases, "kind")
    assert "".join(case.categories["kind"] for case in ordered) == "abacaba"
    assert [case.prompt for case in ordered if case.categories["kind"] == "a"] == ["0", "1", "2", "3"]


def test_all_suites_are_listed_and_where_they_say() -> None:
    for name, entry in registry.SUITES.items():
        assert entry.about
        if entry.command == registry.IMAGES:
            assert callable(registry.suite_module(name).load)


ON_THE_HUB = {
    "zhwang/HPDv2": [
        "README.md",
        "benchmark/anime.json",
        "benchmark/benchmark_imgs/CM.tar.gz",
        "benchmark/concept-art.json",
        "benchmark/drawbench.json",
        "benchmark/drawbench/CM.tar.gz",
        "benchmark/paintings.json",
        "benchmark/photo.json",
    ],
    "yuvalkirstain/pickapic_v1_no_images": [
        "data/test-00000-of-00001-aa.parquet",
        "data/test_unique-00000-of-00001-bb.parquet",
        "data/validation-00000-of-00001-cc.parquet",
        "data/validation_unique-00000-of-00001-dd.parquet",
    ],
    "nateraw/parti-prompts": ["PartiPrompts.tsv", "README.md"],
}
"""Files of the publishers' datasets, as the hub lists them."""


@pytest.mark.parametrize(
    ("name", "options", "wanted"),
    [
        ("hpsv2", {}, [f"benchmark/{style}.json" for style in ("anime", "concept-art", "paintings", "photo")]),
        ("pickapic", {}, ["data/validation_unique-00000-of-00001-dd.parquet"]),
        ("pickapic", {"split": "test"}, ["data/test_unique-00000-of-00001-bb.parquet"]),
        ("parti", {}, ["PartiPrompts.tsv"]),
        ("drawbench", {"data": "zhwang/HPDv2"}, ["benchmark/drawbench.json"]),
    ],
)
def test_what_is_asked_of_the_hub(
    name: str, options: dict[str, str], wanted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(dataset: str, file: str, repo_type: str) -> str:
        asked.append(file)
        place = tmp_path / Path(file).name
        if place.suffix == ".parquet":
            pq.write_table(pa.table({"caption": ["a", "b"]}), place)
        else:
            table = "Prompt\tCategory\tChallenge\na\tA\tB\nb\tA\tB\n"
            place.write_text(table if place.suffix == ".tsv" else '["a", "b"]')
        return str(place)

    def names(self: object, dataset: str, repo_type: str) -> list[str]:
        return ON_THE_HUB[dataset]

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", names)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    suite = registry.find(name, Options(**options))  # type: ignore[arg-type]
    assert asked == wanted
    assert {case.prompt for case in suite.cases} == {"a", "b"}
    with pytest.raises(UserError, match="dataset 'no/such': cannot be fetched from the hub"):
        registry.find(name, Options(**{**options, "data": "no/such"}))  # type: ignore[arg-type]


def test_too_few_prompts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "drawbench.txt").write_text("a\n")
    with pytest.raises(UserError, match=r"drawbench\.txt: 1 prompt; an interval takes at least 2"):
        registry.find("drawbench", Options(data=str(tmp_path)))


def categories(suite: Suite, kind: str) -> Counter[str]:
    return Counter(case.categories[kind] for case in suite.cases)


def test_the_real_partiprompts() -> None:
    suite = registry.find("parti", Options(data=real("partiprompts")))
    assert len({case.prompt for case in suite.cases}) == 1632
    assert categories(suite, "category")["Animals"] == 314
    assert categories(suite, "challenge")["Writing & Symbols"] == 91
    # In proportion from the start: 314 of 1,632 are animals.
    assert 18 <= sum(case.categories["category"] == "Animals" for case in suite.take(100)) <= 20


def test_the_real_geneval_prompts() -> None:
    suite = registry.find("geneval", Options(data=real("geneval")))
    assert len(suite.cases) == 553 * 4
    assert categories(suite, "task") == {
        "position": 400,
        "color_attr": 400,
        "two_object": 396,
        "colors": 376,
        "single_object": 320,
        "counting": 320,
    }
    names = [case.name for case in suite.cases]
    assert len(set(names)) == len(names)
    assert {"00000/samples/0000", "00552/samples/0003"} <= set(names)


def test_the_real_prompts_of_pickapic_and_hpsv2() -> None:
    assert len(registry.find("pickapic", Options(data=real("pickapic_prompts"), split="test")).cases) == 2048
    photo = Options(data=real("hpsv2_photo/hps_v2_all.txt"), styles=("photo",))
    suite = registry.find("hpsv2", photo)
    assert suite.cases[0].prompt == "A man taking a drink from a water fountain."
    assert len(suite.cases) == 750


def test_the_published_table_is_the_real_one() -> None:
    import csv

    from diffdpo.benchmarks.suites.hps_table import PUBLISHED, STYLES

    with open(real("hpsv2_table/hpsv2_benchmark_table.csv"), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    assert published["columns"] == ["model", *STYLES, "average"]
    for row in rows:
        figures = [float(row[key]) for key in ("anime", "concept_art", "paintings", "photo", "avg")]
        assert [row["model"], *figures] in published["versions"][row["version"]]
    assert sum(map(len, published["versions"].values())) == len(rows) == 44
    assert hpsv2.SCORERS == ("hpsv2", "hpsv2.1")
