"""The benchmark of labelling: all its ways draw the same images, and what it changes it puts back."""

import json

import pytest
import torch
from bench_label import main, open_bench, parser
from speed.changes import changes, contiguous, two_passes
from speed.labeling import Ours


@pytest.fixture(scope="module")
def words(tiny_model):
    return [
        *("--model", str(tiny_model), "--scorers", "shapes-pickscore", "--prompts", "2", "--candidates", "2"),
        *("--steps", "2", "--rounds", "1"),
    ]


@pytest.fixture(scope="module")
def bench(words):
    return open_bench(parser().parse_args(words))


def test_every_way_draws_the_same_and_has_a_row(words, tmp_path, capsys):
    found = main([*words, "--without", "all", "--json", str(tmp_path / "found.json")])
    assert json.loads((tmp_path / "found.json").read_text())["rows"][0]["way"] == "plain pipeline, one image per call"
    assert found["largest_pixel_gap"] <= 1
    assert len(found["rows"]) == 9
    assert capsys.readouterr().out.count("| ours") == 7
    assert [row["against_ours"] for row in found["rows"] if row["way"] == "ours"] == [(1, 1, 1)]


def test_what_was_changed_is_put_back(bench):
    before = (bench.source.batch_size, bench.source.apart, bench.judges, bench.source.pipeline.unet.forward)
    for name, change in changes(bench, compiled=False).items():
        way = Ours(bench, name, change)
        way.open()
        way.close()
    assert (bench.source.batch_size, bench.source.apart, bench.judges, bench.source.pipeline.unet.forward) == before
    assert not bench.source.pipeline.vae.use_slicing


def test_guidance_in_two_passes_calls_the_network_twice(bench, monkeypatch):
    network, sizes = bench.source.pipeline.unet, []
    whole = network.forward
    monkeypatch.setattr(network, "forward", lambda sample, *a, **k: sizes.append(len(sample)) or whole(sample, *a, **k))
    bench.source(["a red circle"], [0])
    with two_passes(bench):
        bench.source(["a red circle"], [0])
    assert sizes == [2, 2, 1, 1, 1, 1]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_the_layout_is_changed_for_a_while(bench, layout):
    network = bench.source.pipeline.unet.to(memory_format=layout)
    weight = max(network.parameters(), key=lambda one: one.shape[-1] if one.ndim == 4 else 0)
    with contiguous(bench):
        assert weight.is_contiguous()
    assert weight.is_contiguous(memory_format=layout)
