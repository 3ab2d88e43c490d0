"""The three ways to hold the reference give the same run; the cached one is computed once and shared."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffdpo.errors import UserError
from diffdpo.models.stable_diffusion import StableDiffusion
from diffdpo.training.image import reference as module
from diffdpo.training.image.reference import ReferenceTable, reference_table
from diffdpo.training.image.runner import run_images
from diffdpo.training.order import BucketOrder, Order
from diffdpo.training.processes import new_accelerator


def rows(folder: str) -> list[dict[str, float]]:
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "pairs_per_second"} for line in lines]


def assert_same_figures(a: str, b: str) -> None:
    for left, right in zip(rows(a), rows(b), strict=True):
        assert left.keys() == right.keys()
        for key in left:
            assert left[key] == pytest.approx(right[key], rel=2e-4, abs=1e-5), key


@pytest.mark.parametrize(("rank", "other"), [(0, "copy"), (4, "adapter")])
def test_cached_equals_the_live_reference(make_config, tmp_path, rank, other):
    changes = {"lora__rank": rank, "data__caption_dropout": 0.3}
    live = make_config(output=str(tmp_path / "live"), model__reference=other, **changes)
    cached = make_config(output=str(tmp_path / "cached"), model__reference="cached", **changes)
    for config in (live, cached):
        run_images(config)
    assert rows(cached.output)[0]["eval/loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert_same_figures(live.output, cached.output)


def test_a_sweep_computes_the_pass_once_and_a_longer_run_only_what_is_missing(make_config, tmp_path, monkeypatch):
    computed: list[int] = []
    plain = module._Pass.fill

    def counting(self, firsts, *, shown):
        compute = self.compute
        counted = dataclasses.replace(
            self, compute=lambda examples: computed.append(len(examples)) or compute(examples)
        )
        plain(counted, firsts, shown=shown)

    monkeypatch.setattr(module._Pass, "fill", counting)
    first = make_config(output=str(tmp_path / "a"), model__reference="cached")
    run_images(first)
    assert sum(computed) == 6 * 4
    swept = make_config(output=str(tmp_path / "b"), model__reference="cached", loss__beta=50.0, training__batch_size=2)
    run_images(swept)
    assert sum(computed) == 6 * 4
    longer = make_config(output=str(tmp_path / "c"), model__reference="cached", training__steps=8)
    run_images(longer)
    assert sum(computed) == 8 * 4


def test_killed_pass_goes_on_and_a_damaged_shard_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PLACES_PER_SHARD", 4)
    order, accelerator = Order(5, 3, seed=0), new_accelerator("fp32")
    asked: list[tuple[int, int]] = []

    def table(at_most: int) -> ReferenceTable:
        asked.clear()

        def compute(examples):
            if len(asked) + len(examples) > at_most:
                raise KeyboardInterrupt
            asked.extend(examples)
            return torch.tensor([[index + 10.0 * epoch, -1.0] for index, epoch in examples])

        return reference_table(
            tmp_path, {"model": "m"}, order, 4, compute=compute,
            compute_held_out=lambda: torch.ones(2, 2), batch_size=3, accelerator=accelerator,
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        table(at_most=5)
    found = table(at_most=100)
    assert asked == order.between(4, 12)  # the first shard of four places had been written
    winners, losers = found.at(order.between(0, 12))
    assert winners.tolist() == [index + 10.0 * epoch for index, epoch in order.between(0, 12)]
    assert set(losers.tolist()) == {-1.0}
    assert found.errors.isnan().sum() == 2 * (15 - 12)

    shard = next(tmp_path.glob("reference-*/places-000001.safetensors"))
    shard.write_bytes(shard.read_bytes()[:20])
    with pytest.raises(UserError, match=r"places-000001.*remove it to compute it again"):
        table(at_most=100)


def test_the_table_of_buckets_is_found_by_example_and_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PLACES_PER_SHARD", 5)
    order = BucketOrder(["a", "b", "a", "b", "b", "a", "a"], batch=4, block=2, seed=0)
    table = reference_table(
        tmp_path, {"model": "m"}, order, 6,
        compute=lambda examples: torch.tensor([[index + 10.0 * epoch, -1.0] for index, epoch in examples]),
        compute_held_out=lambda: torch.ones(2, 2), batch_size=3, accelerator=new_accelerator("fp32"),
    )  # fmt: skip
    for step in range(6):
        assert table.at(order.at(step))[0].tolist() == [index + 10.0 * epoch for index, epoch in order.at(step)]


def test_other_model_seed_or_rows_make_another_table(make_config, tmp_path):
    for number, changes in enumerate(({}, {"seed": 1}, {"data__held_out_share": 0.4})):
        run_images(
            make_config(output=str(tmp_path / str(number)), model__reference="cached", training__steps=1, **changes)
        )
    assert len(list((tmp_path / "cache").glob("reference-*"))) == 3


def test_what_moves_dtype_or_kernels_makes_another_table(make_config, tmp_path):
    kinds = ({}, {"training__gradient_checkpointing": True}, {"lora__rank": 4}, {"lora__rank": 8})
    for number, changes in enumerate(kinds):
        run_images(
            make_config(output=str(tmp_path / str(number)), model__reference="cached", training__steps=1, **changes)
        )
    assert len(list((tmp_path / "cache").glob("reference-*"))) == 3  # a rank moves nothing


def test_with_gradient_checkpointing_the_pass_takes_the_policys_kernels(make_config, tmp_path, monkeypatch):
    """Else the first loss is off ln 2 by the difference between two kernels."""
    asked: list[bool] = []
    plain = StableDiffusion._attention_kernel

    def noting(self, x_t):
        asked.append(bool(self.network.is_gradient_checkpointing))
        return plain(self, x_t)

    monkeypatch.setattr(StableDiffusion, "_attention_kernel", noting)
    changes = {"training__gradient_checkpointing": True, "training__steps": 1}
    run_images(make_config(model__reference="cached", **changes))
    assert asked
    assert all(asked)
    assert rows(str(tmp_path / "run"))[0]["eval/loss"] == pytest.approx(math.log(2), abs=5e-7)


def test_the_stored_numbers_are_float32_pairs(make_config, tmp_path):
    run_images(make_config(model__reference="cached", training__steps=2))
    stored = load_file(next((tmp_path / "cache").glob("reference-*/places-000000.safetensors")))["errors"]
    assert stored.dtype == torch.float32
    assert stored.shape == (8, 2)
    assert (stored > 0).all()
