"""Keys that change how fast a run is, or how its draws are spread: none changes what a step is a function of."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffdpo.data.triplets import TripletStore
from diffdpo.models.registry import load_model
from diffdpo.training.image.inputs import load_model as model_of
from diffdpo.training.image.inputs import open_cache, run_settings, split_rows
from diffdpo.training.image.methods import make_recipe
from diffdpo.training.image.runner import run_images

DRAWS = {"training__timesteps": "stratified", "training__noise": "antithetic"}


def weights(folder):
    return load_file(Path(folder) / "model" / "unet" / "diffusion_pytorch_model.safetensors")


def lines(folder):
    text = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "pairs_per_second"} for line in text]


def recipe_of(config):
    store = TripletStore.open(config.data.path)
    rows, held_out = split_rows(store, config)
    model = model_of(config, torch.device("cpu"))
    return make_recipe(config, model, open_cache(config, store, model), rows, held_out, torch.device("cpu"))


def test_neither_preparing_ahead_nor_a_cached_reference_moves_the_draws(make_config, tmp_path):
    plain = {"training__steps": 3, "training__accumulation": 2, "training__batch_size": 2, **DRAWS}
    live = make_config(output=str(tmp_path / "live"), **plain)
    ahead = make_config(output=str(tmp_path / "ahead"), training__prefetch=3, **plain)
    cached = make_config(output=str(tmp_path / "cached"), model__reference="cached", **plain)
    for config in (live, ahead, cached):
        run_images(config)
    assert lines(live.output) == lines(ahead.output)
    before, after = weights(live.output), weights(ahead.output)
    assert all(torch.equal(before[name], after[name]) for name in before)
    for left, right in zip(lines(live.output), lines(cached.output), strict=True):
        for key in left:
            assert left[key] == pytest.approx(right[key], rel=2e-4, abs=1e-5), key


def test_timesteps_are_spread_over_a_step_however_it_is_cut(make_config):
    recipe = recipe_of(make_config(**DRAWS))
    step = recipe._order.between(0, 12)
    together = recipe.noised(step)[1].inputs[1][:12]
    apart = torch.cat([recipe.noised([example])[1].inputs[1][:1] for example in step])
    assert torch.equal(together, apart)
    assert together.sort().values.diff().max() < 1000 * 2.62 / 12
    uniform = recipe_of(make_config()).noised(step)[1].inputs[1][:12]
    assert uniform.sort().values.diff().max() > together.sort().values.diff().max()


def test_a_run_from_before_these_keys_goes_on_and_one_with_them_is_another(make_config):
    config = make_config()
    store = TripletStore.open(config.data.path)
    plain = run_settings(config, store)["training"]
    assert not {"timesteps", "noise", "compile", "prefetch"} & plain.keys()
    assert run_settings(make_config(training__prefetch=2), store)["training"] == plain
    assert run_settings(make_config(**DRAWS), store)["training"]["timesteps"] == "stratified"


@pytest.mark.parametrize("rank", [0, 2])
def test_policy_and_reference_are_compiled_alike(tiny_model, monkeypatch, rank):
    """Blocks are counted where torch would compile them: what compilers make of them is not ours to test."""
    called = []

    def counted(call, backend):
        assert backend == "inductor"
        return lambda *args, **keywords: called.append(type(call.__self__).__name__) or call(*args, **keywords)

    monkeypatch.setattr(torch, "compile", counted)
    plain, compiled = (load_model(str(tiny_model), lora_rank=rank, lora_alpha=2.0) for _ in range(2))
    compiled.compile_blocks()
    inputs = (torch.ones(2, 4, 8, 8), torch.tensor([3, 700]), compiled.encode_prompts(["a cat", ""]))
    expected = plain.predict(plain.network, *inputs)
    assert not called
    assert torch.equal(compiled.predict(compiled.network, *inputs), expected)
    blocks = sorted(called)
    assert set(blocks) == {"BasicTransformerBlock", "ResnetBlock2D"}
    called.clear()
    assert torch.equal(compiled.reference()(*inputs), expected)
    assert sorted(called) == blocks
    assert list(compiled.network.state_dict()) == list(plain.network.state_dict())
