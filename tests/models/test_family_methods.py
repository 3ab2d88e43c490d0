"""Every family x {LoRA, full} x every method: a run that is stopped and goes on, and its loss in float64 by hand."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import by_hand
import pytest
import torch
from diffusers import DiffusionPipeline

from diffdpo.config import IMAGE_METHODS, ImageConfig, build
from diffdpo.data.triplets import TripletStore
from diffdpo.models.protocol import trainable
from diffdpo.objectives import draw
from diffdpo.training import checkpoints, loop
from diffdpo.training.folder import run_name
from diffdpo.training.image.inputs import load_model, open_cache, run_settings, split_rows
from diffdpo.training.image.methods import make_recipe
from diffdpo.training.image.runner import run_images
from diffdpo.training.metrics import read_metrics

FAMILIES = ("sd15", "sd21", "sdxl", "sd3", "flux")
RANKS = (4, 0)
LOSSES: dict[str, dict[str, float]] = {
    "dpo": {"beta": 100},
    "kto": {"beta": 100, "desirable_weight": 1.4, "undesirable_weight": 0.6},
    "mapo": {"beta": 0.2, "snr": 0.4},
    "sft": {},
}
BY_HAND = {**LOSSES, "kto": {"beta": 100, "liked": 1.4, "disliked": 0.6}}
GUIDANCE = 2.5
PAIRS, TIE, DROPOUT = 5, 3, 0.5
EPOCHS = [0, 0, 1, 0, 2]


@pytest.fixture(scope="module")
def store(write_store, tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "pairs", PAIRS, ties=(TIE,))


@pytest.fixture(scope="module")
def config_of(sample, store):
    def make(family: str, rank: int, method: str, out: Path) -> ImageConfig:
        model: dict[str, Any] = {"path": str(sample(family))}
        if method in ("dpo", "kto"):
            model["reference"] = "adapter" if rank else "copy"
        if family.startswith(("sd3", "flux")):
            model["max_sequence_length"] = 12
        if family == "flux":
            model["guidance"] = GUIDANCE
        data = {"path": str(store), "held_out_share": 0.0, "caption_dropout": DROPOUT}
        training = {"steps": 3, "batch_size": 2, "learning_rate": 1e-2, "log_every": 1, "checkpoint_every": 1}
        return build(
            IMAGE_METHODS[method],
            {
                "method": method,
                "output": str(out),
                "model": model,
                "data": {**data, "ties": "drop" if method == "sft" else "half"},
                "training": training,
                "loss": LOSSES[method],
                "lora": {"rank": rank, "alpha": 2 * rank},
            },
        )

    return make


def network_of(pipeline):
    return pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer


# A run that is stopped


class Stopped(BaseException):
    """Stands for a kill: nothing catches it. (tests/training/test_runner.py kills a process.)"""


def stop_after_the_first_checkpoint(config, monkeypatch):
    def save(*args, **keywords):
        kept(*args, **keywords)
        raise Stopped

    kept = checkpoints.save
    with monkeypatch.context() as patched:
        patched.setattr(loop.checkpoints, "save", save)
        with pytest.raises(Stopped):
            run_images(config)


def opened(config):
    """What plain diffusers reads of the result: all weights of the network, or those of the LoRA."""
    if not config.lora.rank:
        return list(network_of(DiffusionPipeline.from_pretrained(f"{config.output}/model")).parameters())
    # Plain diffusers wants to be told which parts a checkpoint lacks.
    absent = dict.fromkeys(("text_encoder_3", "tokenizer_3")) if "without-t5" in config.model.path else {}
    pipeline = DiffusionPipeline.from_pretrained(config.model.path, **absent)
    pipeline.load_lora_weights(f"{config.output}/lora")
    network = network_of(pipeline)
    assert network.peft_config["default_0"].lora_alpha == config.lora.alpha
    return [parameter for name, parameter in network.named_parameters() if "lora_" in name]


@pytest.mark.parametrize("method", LOSSES)
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("family", [*FAMILIES, "sd3-without-t5", "flux-schnell"])
def test_stopped_run_goes_on_and_opens_in_diffusers(config_of, family, rank, method, tmp_path, monkeypatch):
    if family not in FAMILIES and (rank, method) != (4, "dpo"):
        pytest.skip("a variant of a family: one combination stands for all")
    config = config_of(family, rank, method, tmp_path / "run")
    stop_after_the_first_checkpoint(config, monkeypatch)
    assert run_images(config)["exported"] == ("lora" if rank else "model")
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3]
    if method == "dpo":
        assert lines[0]["loss"] == pytest.approx(0.69314718, abs=1e-8)
    name = run_name(run_settings(config, TripletStore.open(config.data.path)))
    last = checkpoints.newest(tmp_path / "run" / "checkpoints", name)
    assert last.step == 3
    weights = opened(config)
    assert len(weights) == len(last.exported)
    assert all(torch.equal(a, b) for a, b in zip(weights, last.exported, strict=True))


# The loss by hand


def tuned_network(base, model, rank):
    """diffusers' own network in float64 with the trained weights, a LoRA's added up by hand."""
    state = base.double().state_dict()
    given = {name: tensor.double() for name, tensor in model.network.state_dict().items()}
    if not rank:
        base.load_state_dict(given)
        return base
    for name in [name for name in given if ".lora_A." in name]:
        a, b = given[name], given[name.replace("lora_A", "lora_B")]
        state[name.split(".lora_A")[0] + ".weight"] += 2.0 * b @ a  # alpha / rank
    base.load_state_dict(state)
    return base


def errors_by_hand(pipeline, batch, draws):
    """Of winners and losers, [B] float64 each."""
    network_of(pipeline).double()
    dropped = draws.dropped < DROPOUT
    sides = ((batch.mean_w, batch.std_w, draws.posterior_w), (batch.mean_l, batch.std_l, draws.posterior_l))
    found = []
    for side, (mean, std, drawn) in enumerate(sides):
        x_0 = mean.double() + std.double() * drawn.double()
        x_t, target = by_hand.noised(pipeline.scheduler, x_0, draws.noise.double(), draws.timesteps)
        given = {
            name: torch.where(dropped.reshape(-1, *[1] * (told.dim() - 1)), batch.unconditional[name], told).double()
            for name, told in batch.conditioning.items()
        }
        given["time_ids"] = torch.cat([batch.sizes[:, side], torch.full((PAIRS, 2), 16)], dim=1).double()
        answer = by_hand.call(pipeline, x_t, draws.timesteps.double(), given, GUIDANCE)
        found.append((answer - target).square().mean((1, 2, 3)))
    return found


@pytest.fixture(scope="module", params=[(family, rank) for family in FAMILIES for rank in RANKS], ids=str)
def tuned(request, config_of, store, tmp_path_factory):
    """A model with moved weights: each method's loss of the same pairs and draws, and the errors by hand."""
    family, rank = request.param
    configs = {method: config_of(family, rank, method, tmp_path_factory.mktemp("unused")) for method in LOSSES}
    pairs = TripletStore.open(store)
    model = load_model(configs["dpo"], torch.device("cpu"))
    cache = open_cache(configs["dpo"], pairs, model)
    reference = model.reference()
    recipes = {
        method: make_recipe(config, model, cache, *split_rows(pairs, config), torch.device("cpu"), reference)
        for method, config in configs.items()
    }
    batch = cache.batch(range(PAIRS))
    draws = draw(0, batch.pair_ids, EPOCHS, (4, 8, 8), 1000)
    plain = DiffusionPipeline.from_pretrained(configs["dpo"].model.path)
    with torch.no_grad():
        first = recipes["dpo"].loss(model.network, [(0, 0), (1, 1)])[0]
        before = errors_by_hand(plain, batch, draws)
        generator = torch.Generator().manual_seed(5)
        for parameter in trainable(model.network):
            parameter += (0.1 if rank else 0.02) * torch.randn(parameter.shape, generator=generator)
        tuned_network(network_of(plain), model, rank)
        return SimpleNamespace(
            first=first, recipes=recipes, network=model.network, errors=[*errors_by_hand(plain, batch, draws), *before]
        )


def test_dpo_starts_at_ln_2(tuned):
    assert tuned.first.item() == torch.tensor(2.0).log().item()


@torch.no_grad()
@pytest.mark.parametrize("method", LOSSES)
def test_loss_equals_the_formula_in_float64(tuned, method):
    recipe, rows = tuned.recipes[method], list(range(PAIRS))
    if method == "sft":
        rows.remove(TIE)
    assert recipe.train_rows == rows
    loss, _ = recipe.loss(tuned.network, [(place, EPOCHS[row]) for place, row in enumerate(rows)])
    e_w, e_l, ref_w, ref_l = (error[rows] for error in tuned.errors)
    formula = by_hand.LOSSES[method]
    expected = formula(e_w, e_l, ref_w, ref_l, **BY_HAND[method])
    if method != "sft":
        mirrored = formula(e_l, e_w, ref_l, ref_w, **BY_HAND[method])
        expected[TIE] = (expected[TIE] + mirrored[TIE]) / 2
    if method == "dpo":
        assert abs(loss.item() - math.log(2)) > 1e-3
    # T = 1000 times the rounding of a score near 1 is what MaPO's logit loses in float32.
    assert loss.item() == pytest.approx(expected.mean().item(), rel=1e-3 if method == "mapo" else 2e-5)
