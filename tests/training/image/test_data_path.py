"""Buckets, mirror images, crops and weights in whole runs on a tiny model."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from diffdpo.config import IMAGE_METHODS, DataConfig, build
from diffdpo.data.triplets import Pair, TripletStore, write_pairs
from diffdpo.errors import UserError
from diffdpo.training import loop
from diffdpo.training.image.data_keys import framing_of, pair_weights, unused_keys
from diffdpo.training.image.inputs import load_model, open_cache, run_settings, split_rows
from diffdpo.training.image.methods import make_recipe
from diffdpo.training.image.runner import run_images
from diffdpo.training.loop import _Training
from diffdpo.training.metrics import read_metrics

ALL = {
    "data__size": 16, "data__buckets": True, "data__flip": True, "data__crop": "random", "data__crops": 2,
    "data__margin_weight": "linear",
}  # fmt: skip
SIZES = [(16, 16), (30, 16), (20, 20), (16, 30), (33, 16), (16, 16), (40, 22)]


def picture(rng: np.random.Generator, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def store(tmp_path) -> Path:
    """Pairs of several shapes, of which two are unlike in a pair; one tie, one without a margin."""
    rng, folder = np.random.default_rng(0), tmp_path / "shapes"
    folder.mkdir()

    def made(number: int) -> Pair:
        size = SIZES[number % len(SIZES)]
        images = picture(rng, size), picture(rng, (16, 16) if number in (1, 3) else size)
        labels, margin = ((0.5, 0.5), 0.0) if number == 5 else ((1.0, 0.0), 0.5 + number % 4)
        margin = float("nan") if number == 6 else margin
        caption = f"a thing {'in' * (number // 2)}"
        return Pair(caption, *images, *labels, f"pair-{number}", caption, "m", "m", 0, 0, "test", margin)

    write_pairs(folder, 0, [made(number) for number in range(28)])
    return folder


@pytest.fixture
def make_recipe_of(make_config, store):
    def make(method="dpo", **changes):
        config = make_config(store, data__ties="half" if method != "sft" else "drop", **changes)
        if method != "dpo":
            given = {**dataclasses.asdict(config), "method": method, "loss": {}}
            config = build(IMAGE_METHODS[method], {**given, "model": {"path": config.model.path}})
        opened = TripletStore.open(store)
        rows, held_out = split_rows(opened, config)
        model = load_model(config, torch.device("cpu"))
        cache = open_cache(config, opened, model)
        weights = pair_weights(opened, rows, config.data)
        return make_recipe(config, model, cache, rows, held_out, torch.device("cpu"), weights=weights)

    return make


def test_a_stopped_run_goes_on_to_the_same_bits(make_config, store, tmp_path, monkeypatch):
    """With the reference cached, so that the table of it is made in the order of the buckets."""
    short = {"steps": 4, "batch_size": 2, "accumulation": 2, "evaluate_every": 100}
    changes = {"data__held_out_share": 0.1, "model__reference": "cached", **ALL}
    whole, stopped = (
        make_config(store, output=str(tmp_path / name), **changes, **{f"training__{key}": short[key] for key in short})
        for name in ("whole", "stopped")
    )
    run_images(whole)
    plain = _Training._step

    def dying(self, step):
        if step == 3:
            raise KeyboardInterrupt
        return plain(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(loop._Training, "_step", dying)
        with pytest.raises(KeyboardInterrupt):
            run_images(stopped)
    run_images(stopped)
    a, b = weights(whole), weights(stopped)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert figures(whole) == figures(stopped)
    assert figures(whole)[0]["eval/loss"] == pytest.approx(0.693147, abs=1e-5)


def weights(config) -> dict[str, torch.Tensor]:
    return load_file(Path(config.output) / "model" / "unet" / "diffusion_pytorch_model.safetensors")


def figures(config) -> list[dict[str, float]]:
    rows = read_metrics(Path(config.output) / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name != "pairs_per_second"} for row in rows]


def test_a_batch_is_the_mean_of_its_pairs_in_each_view_and_weight(make_recipe_of):
    """Also what makes accumulation the same gradient as one big batch."""
    recipe = make_recipe_of(**ALL)
    bucket = max(set(recipe.buckets), key=recipe.buckets.count)
    alike = [index for index, own in enumerate(recipe.buckets) if own == bucket][:4]
    examples = [(index, epoch) for epoch, index in enumerate(alike)]
    whole, _ = recipe.loss(recipe.network, examples)
    (together,) = torch.autograd.grad(whole, [recipe.network.conv_in.weight])
    apart = torch.zeros_like(together)
    losses = []
    for half in (examples[:2], examples[2:]):
        loss, _ = recipe.loss(recipe.network, half)
        losses.append(loss.item())
        apart += torch.autograd.grad(loss / 2, [recipe.network.conv_in.weight])[0]
    assert whole.item() == pytest.approx(sum(losses) / 2, rel=1e-6)
    torch.testing.assert_close(apart, together, rtol=1e-3, atol=1e-6)


def test_an_epoch_shows_a_pair_in_one_view_and_another_in_others(make_recipe_of):
    recipe = make_recipe_of(data__size=16, data__flip=True)
    seen = [recipe._batch([(0, epoch)]) for epoch in range(40)]
    views = [recipe.cache.batch([recipe.train_rows[0]], [view]) for view in (0, 1)]
    mirrored = [torch.equal(batch.mean_w, views[1].mean_w) for batch in seen]
    assert mirrored == [torch.equal(batch.mean_l, views[1].mean_l) for batch in seen]
    assert 10 < sum(mirrored) < 30  # of 40 halves; standard deviation 3.2
    assert torch.equal(recipe._batch([(1, 3), (0, 7)]).mean_l[1:], seen[7].mean_l)


@pytest.mark.parametrize("method", ["dpo", "mapo", "sft"])
def test_each_pairs_loss_is_weighed(make_recipe_of, method):
    recipe = make_recipe_of(method, data__size=16, data__margin_weight="linear")
    plain = make_recipe_of(method, data__size=16)
    assert recipe.weights.mean().item() == pytest.approx(1, abs=1e-6)
    assert len(set(recipe.weights.tolist())) >= 4
    examples = [(index, 0) for index in range(4)]
    each = torch.stack([plain.loss(plain.network, [example])[0].detach() for example in examples])
    loss, shown = recipe.loss(recipe.network, examples)
    assert loss.item() == pytest.approx((recipe.weights[:4] * each).mean().item(), rel=1e-5)
    assert shown["loss"] is loss


def test_ties_and_unknown_margins_weigh_one(store):
    opened = TripletStore.open(store)
    found = pair_weights(opened, range(28), DataConfig(str(store), margin_weight="linear"))
    known = [0.5 + number % 4 for number in range(28) if number not in (5, 6)]
    assert found[[5, 6]].tolist() == [1, 1]
    assert found[3].item() == pytest.approx(3.5 / (sum(known) / len(known)), rel=1e-6)


def test_the_reference_of_mixed_buckets_is_that_of_each_pair(make_recipe_of):
    recipe = make_recipe_of(**ALL)
    examples = [(index, index % 3) for index in range(7)]
    assert len({recipe.buckets[index] for index, _ in examples}) > 1
    together = recipe.compute_reference(examples)
    apart = torch.cat([recipe.compute_reference([example]) for example in examples])
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-6)


def test_held_out_pairs_are_looked_at_in_their_buckets(make_recipe_of):
    recipe = make_recipe_of(**ALL)
    parts = recipe._held_out_parts()
    assert sorted(row for part in parts for row in part) == sorted(recipe.held_out_rows)
    assert all(len({recipe.cache.buckets[row] for row in part}) == 1 for part in parts)
    assert recipe.evaluate()["eval/loss"] == pytest.approx(0.693147, abs=1e-5)


def test_keys_that_change_nothing_leave_a_runs_settings_as_they_were(make_config):
    config = make_config(data__crops=7)  # of no use without `crop: random`
    data = run_settings(config, TripletStore.open(config.data.path))["data"]
    assert data.keys() == {"ties", "held_out_share", "caption_dropout", "size"}
    changed = dataclasses.replace(config.data, size=16, buckets=True, crop="random", flip=True, margin_weight="linear")
    assert unused_keys(changed) == ["held_out_pairs", "min_margin", "cache_precision"]


def test_of_many_held_out_pairs_some_are_looked_at_and_none_is_trained_on(make_config):
    config = make_config(data__held_out_share=0.5)
    store = TripletStore.open(config.data.path)
    train_rows, held_out = split_rows(store, config)
    fewer = dataclasses.replace(config, data=dataclasses.replace(config.data, held_out_pairs=3))
    same_rows, looked_at = split_rows(store, fewer)
    assert same_rows == train_rows
    assert len(looked_at) == 3 < len(held_out)
    assert looked_at == sorted(set(looked_at) & set(held_out))
    assert looked_at != held_out[:3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"buckets": True}, r"data\.buckets: needs data\.size, the side .* whose area is kept"),
        ({"crop": "random"}, r"data\.crop: needs data\.size, the side .* that is cut out"),
        ({"crops": 0}, r"data\.crops: must be between 1 and 64, not 0"),
    ],
)
def test_keys_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        DataConfig("somewhere", **changes)


def test_a_size_below_what_the_model_takes_is_refused():
    with pytest.raises(UserError, match=r"data\.size: 48 is too small for buckets.*multiples of 64"):
        framing_of(DataConfig("somewhere", size=48, buckets=True), 64)


def test_a_margin_that_no_pair_reaches_names_its_key(make_config):
    config = make_config(data__min_margin=1e6)
    with pytest.raises(UserError, match=r"no pairs to train on \(of 24 in the store\); lower data\.min_margin"):
        split_rows(TripletStore.open(config.data.path), config)


def test_a_store_without_margins_cannot_be_weighed(make_config, make_store):
    config = make_config(
        make_store(4, ties=(0, 1, 2, 3)), data__ties="half", data__margin_weight="linear", data__held_out_share=0.0
    )
    with pytest.raises(UserError, match=r"data\.margin_weight: .*pairs: no margin is above 0.*label with a scorer"):
        run_images(config)
    assert not Path(config.output).exists()
