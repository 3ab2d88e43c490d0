"""The recipe against the formula of Wallace et al., written out in float64 with diffusers' own noise schedule."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from diffusers import DDPMScheduler

from diffdpo.data.triplets import TripletStore
from diffdpo.objectives import draw
from diffdpo.training import checkpoints
from diffdpo.training.image.dpo import DiffusionDpo
from diffdpo.training.image.inputs import load_model, open_cache, split_rows
from diffdpo.training.image.pairs import NoisedPairs
from diffdpo.training.loop import train
from diffdpo.training.order import Order
from diffdpo.training.processes import new_accelerator

EXAMPLES = [(0, 0), (1, 0), (2, 0), (3, 1)]


@pytest.fixture
def make_recipe(make_config):
    def make(store=None, rows=None, **changes):
        config = make_config(store, **changes)
        opened = TripletStore.open(config.data.path)
        train_rows, held_out = split_rows(opened, config)
        model = load_model(config, torch.device("cpu"))
        cache = open_cache(config, opened, model)
        recipe = DiffusionDpo(
            model, cache, rows or train_rows, held_out, loss=config.loss, seed=config.seed,
            caption_dropout=config.data.caption_dropout,
        )  # fmt: skip
        return recipe, config

    return make


def perturb(network, size=0.02):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += size * torch.randn(parameter.shape, generator=generator)


def errors(recipe, policy, reference, examples, seed=0):
    """((e_w, ref_w), (e_l, ref_l)), [B] each, float64 throughout."""
    scheduler = recipe.model.pipeline.scheduler
    ddpm = DDPMScheduler.from_config(scheduler.config)
    batch = recipe.cache.batch([recipe.train_rows[i] for i, _ in examples])
    draws = draw(seed, batch.pair_ids, [epoch for _, epoch in examples], tuple(batch.mean_w.shape[1:]), 1000)
    prompts = batch.conditioning["prompt_embeds"].double()

    def error(network, mean, std, posterior):
        x_0 = mean.double() + std.double() * posterior.double()
        noise = draws.noise.double()
        ddpm.alphas_cumprod = ddpm.alphas_cumprod.double()
        x_t = ddpm.add_noise(x_0, noise, draws.timesteps)
        return (network(x_t, draws.timesteps, prompts).sample - noise).pow(2).mean((1, 2, 3))

    w = (batch.mean_w, batch.std_w, draws.posterior_w)
    lost = (batch.mean_l, batch.std_l, draws.posterior_l)
    return tuple((error(policy, *side), error(reference, *side)) for side in (w, lost))


def formula(recipe, policy, reference, examples, beta, seed=0):
    """-log sigmoid(-(beta/2) [(e_w - ref_w) - (e_l - ref_l)]) per pair, float64 throughout."""
    (e_w, ref_w), (e_l, ref_l) = errors(recipe, policy, reference, examples, seed)
    inside = (e_w - ref_w) - (e_l - ref_l)
    return -torch.log(torch.sigmoid(-beta / 2 * inside))


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_first_loss_is_ln_2(make_recipe, lora_rank):
    reference = "adapter" if lora_rank else "copy"
    recipe, _ = make_recipe(lora__rank=lora_rank, model__reference=reference)
    loss, figures = recipe.loss(recipe.network, EXAMPLES)
    assert loss.item() == pytest.approx(math.log(2), abs=5e-7)
    assert figures["rewards/accuracies"].item() == 0.0  # a tie is not a win


def test_loss_equals_the_formula_in_float64(make_recipe):
    recipe, config = make_recipe(loss__winner_safeguard=None)
    reference = copy.deepcopy(recipe.network).double()
    perturb(recipe.network)
    policy = copy.deepcopy(recipe.network).double()
    expected = formula(recipe, policy, reference, EXAMPLES, config.loss.beta).mean()
    loss, _ = recipe.loss(recipe.network, EXAMPLES)
    assert abs(loss.item() - math.log(2)) > 1e-3
    assert loss.item() == pytest.approx(expected.item(), rel=2e-5)


def test_one_training_step_equals_adamw_on_the_formula(make_recipe, tmp_path):
    """The whole step, loss to weights: float64 gradients and AdamW written from its paper."""
    recipe, config = make_recipe(
        loss__winner_safeguard=None, training__steps=1, training__warmup_steps=0, training__ema=None,
        training__max_grad_norm=1e9,
    )  # fmt: skip
    policy, reference = (copy.deepcopy(recipe.network).double() for _ in range(2))
    before = [p.detach().clone() for p in policy.parameters()]
    accelerator = new_accelerator("fp32")
    examples = Order(recipe.n_examples, config.training.batch_size, config.seed).at(0)
    formula(recipe, policy, reference, examples, config.loss.beta).mean().backward()
    train(recipe, config.training, seed=config.seed, run="r", folder=tmp_path, accelerator=accelerator)
    rate, decay = config.training.learning_rate, config.training.weight_decay
    compared = 0
    for old, p, trained in zip(before, policy.parameters(), recipe.network.parameters(), strict=True):
        step = rate * p.grad / (p.grad.abs() + 1e-8)  # m/sqrt(v) after bias correction, first step
        # Where the gradient is at Adam's eps or below float32's noise its sign is not settled.
        clear = p.grad.abs() > 1e-4
        expected = old * (1 - rate * decay) - step
        torch.testing.assert_close(trained.double()[clear], expected[clear], rtol=0, atol=2e-3 * rate + 1e-7)
        compared += int(clear.sum())
    assert compared > 1000


@pytest.mark.parametrize("limit", [1e9, 0.01])
def test_the_gradient_that_adam_gets_is_the_formulas_and_is_clipped(make_recipe, tmp_path, limit):
    """Adam's first step hides the gradient's size; its first moment, 0.1 times the gradient, shows it."""
    recipe, config = make_recipe(
        loss__winner_safeguard=None, training__steps=1, training__ema=None, training__max_grad_norm=limit,
    )  # fmt: skip
    policy, reference = (copy.deepcopy(recipe.network).double() for _ in range(2))
    examples = Order(recipe.n_examples, config.training.batch_size, config.seed).at(0)
    formula(recipe, policy, reference, examples, config.loss.beta).mean().backward()
    gradients = [p.grad for p in policy.parameters()]
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    assert norm > 0.02
    outcome = train(
        recipe, config.training, seed=config.seed, run="r", folder=tmp_path, accelerator=new_accelerator("fp32")
    )
    assert outcome.figures["grad_norm"] == pytest.approx(norm.item(), rel=1e-5)
    checkpoint = checkpoints.newest(tmp_path / "checkpoints", "r")
    moments = checkpoint.tensors["optimizer"]
    scale = min(1.0, limit / (norm.item() + 1e-6))
    for index, gradient in enumerate(gradients):
        moment = moments.read(f"{index:05d}.exp_avg").double()
        torch.testing.assert_close(moment, 0.1 * scale * gradient, rtol=1e-3, atol=2e-6 * norm.item() * scale)


def test_a_bf16_run_keeps_the_logit_of_its_own_predictions(make_recipe, tmp_path, monkeypatch):
    """At beta 5000, from what the networks predict in bf16. Squared or averaged in bf16 it would be off by 0.5 to 4."""
    recipe, config = make_recipe(
        loss__beta=5000.0, loss__winner_safeguard=None, training__precision="bf16", training__steps=4,
        training__learning_rate=1e-3, training__warmup_steps=0, data__held_out_share=0.0,
    )  # fmt: skip
    seen, logits = [], []
    errors, judge = NoisedPairs.errors, recipe.judge

    def predicted(noised, prediction):
        seen.append((prediction.detach().chunk(2), noised.target.chunk(2)))
        return errors(noised, prediction)

    def judged(*given):
        output = judge(*given)
        logits.append((output.chosen_reward - output.rejected_reward).double())
        return output

    monkeypatch.setattr(NoisedPairs, "errors", predicted)
    monkeypatch.setattr(recipe, "judge", judged)
    train(recipe, config.training, seed=config.seed, run="r", folder=tmp_path, accelerator=new_accelerator("bf16"))
    assert len(logits) == 4
    assert all(torch.equal(p, p.bfloat16().to(p.dtype)) for predictions, _ in seen for p in predictions)
    for reference, policy, logit in zip(seen[::2], seen[1::2], logits, strict=True):
        (ref_w, ref_l), (e_w, e_l) = (
            [(p.double() - t.double()).pow(2).mean((1, 2, 3)) for p, t in zip(*side, strict=True)]
            for side in (reference, policy)
        )
        assert (logit + 2500 * ((e_w - ref_w) - (e_l - ref_l))).abs().max() < 1e-2
    assert logits[-1].abs().max() > 0.5


def test_figures_are_what_their_names_say(make_recipe):
    recipe, config = make_recipe(loss__winner_safeguard=None)
    reference = copy.deepcopy(recipe.network).double()
    perturb(recipe.network)
    policy = copy.deepcopy(recipe.network).double()
    with torch.no_grad():
        (w, ref_w), (lost, ref_l) = errors(recipe, policy, reference, EXAMPLES)
        _, figures = recipe.loss(recipe.network, EXAMPLES)
    # The implicit reward is beta times the log-ratio; a log-ratio is minus half the error's growth (numerics of the
    # official convention).
    chosen, rejected = (-config.loss.beta / 2 * (e - r) for e, r in ((w, ref_w), (lost, ref_l)))
    margin = chosen - rejected
    expected = {
        "rewards/chosen": chosen.mean(),
        "rewards/rejected": rejected.mean(),
        "rewards/margins": margin.mean(),
        "rewards/accuracies": (margin > 0).double().mean(),
        "gradient_weight": (1 / (1 + torch.exp(margin))).mean(),
        "error/chosen": w.mean(),
        "error/rejected": lost.mean(),
        "error/chosen_vs_ref": (w - ref_w).mean(),
        "error/rejected_vs_ref": (lost - ref_l).mean(),
    }
    assert expected.keys() == figures.keys() - {"loss", "safeguard"}
    for name, value in expected.items():
        assert figures[name].item() == pytest.approx(value.item(), rel=2e-4, abs=1e-6), name


def test_winner_and_loser_swap_mirrors_the_margin(make_recipe):
    recipe, _ = make_recipe()
    perturb(recipe.network)
    straight = recipe.cache.batch

    def swapped(rows):
        batch = straight(rows)
        import dataclasses

        return dataclasses.replace(
            batch, mean_w=batch.mean_l, mean_l=batch.mean_w, std_w=batch.std_l, std_l=batch.std_w
        )

    # Posterior noise stays with its slot, so compare on means alone.
    recipe.cache.batch = lambda rows: _without_std(straight(rows))
    _, plain = recipe.loss(recipe.network, EXAMPLES)
    recipe.cache.batch = lambda rows: _without_std(swapped(rows))
    _, mirrored = recipe.loss(recipe.network, EXAMPLES)
    assert plain["rewards/margins"].item() == pytest.approx(-mirrored["rewards/margins"].item(), rel=1e-4)


def _without_std(batch):
    import dataclasses

    return dataclasses.replace(batch, std_w=0 * batch.std_w, std_l=0 * batch.std_l)


def test_safeguard_keeps_the_value_and_shrinks_only_the_loser_gradient(make_recipe):
    free, _ = make_recipe(loss__winner_safeguard=None)
    guarded, _ = make_recipe(loss__winner_safeguard=0.9)
    for recipe in (free, guarded):
        perturb(recipe.network)
    free_loss, _ = free.loss(free.network, EXAMPLES)
    guarded_loss, figures = guarded.loss(guarded.network, EXAMPLES)
    assert guarded_loss.item() == pytest.approx(free_loss.item(), rel=1e-6)
    assert figures["safeguard"].item() < 1
    free_loss.backward()
    guarded_loss.backward()
    name = "conv_out.weight"
    grads = [dict(r.network.named_parameters())[name].grad for r in (free, guarded)]
    assert not torch.allclose(*grads)


def test_a_tie_counts_half_in_each_order(make_recipe, make_store):
    recipe, _ = make_recipe(make_store(12, ties=(0, 1, 2, 3)), rows=[0], data__ties="half", data__held_out_share=0.0)
    perturb(recipe.network)
    loss, figures = recipe.loss(recipe.network, [(0, 0)])
    margin = figures["rewards/margins"].double()
    expected = 0.5 * (torch.log1p(torch.exp(-margin)) + torch.log1p(torch.exp(margin)))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_batch_of_four_equals_four_batches_of_one(make_recipe):
    recipe, _ = make_recipe()
    perturb(recipe.network)
    together = recipe.loss(recipe.network, EXAMPLES)[0].item()
    apart = [recipe.loss(recipe.network, [example])[0].item() for example in EXAMPLES]
    assert together == pytest.approx(sum(apart) / 4, rel=1e-5)


def test_captions_are_dropped_for_both_or_neither(make_recipe):
    recipe, _ = make_recipe(data__caption_dropout=0.5)
    batch, noised = recipe.noised([(index, 0) for index in range(len(recipe.train_rows))])
    embeds = noised.inputs[2]["prompt_embeds"]
    winners, losers = embeds.chunk(2)
    assert torch.equal(winners, losers)
    empty = batch.unconditional["prompt_embeds"]
    dropped = (winners == empty).flatten(1).all(1)
    assert 0 < dropped.sum() < len(dropped)


def test_held_out_figures_repeat_exactly(make_recipe):
    recipe, _ = make_recipe()
    perturb(recipe.network)
    first, second = recipe.evaluate(), recipe.evaluate()
    assert first == second
    assert 0 <= first["eval/accuracy"] <= 1


@pytest.mark.parametrize("mu", [None, 0.9])
def test_a_tie_is_the_same_whichever_image_is_stored_first(make_recipe, make_store, mu):
    store = make_store(12, ties=(0, 1, 2, 3))
    ties = {"rows": [0, 1, 2, 3], "data__ties": "half", "data__held_out_share": 0.0}
    found = []
    for swaps in (False, True):
        recipe, _ = make_recipe(store, loss__winner_safeguard=mu, **ties)
        perturb(recipe.network)
        # Posterior noise stays with its slot, so compare on means alone.
        straight = recipe.cache.batch
        recipe.cache.batch = lambda rows, s=straight, on=swaps: _swapped(_without_std(s(rows)), on)
        loss, figures = recipe.loss(recipe.network, EXAMPLES)
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in recipe.network.parameters()])
        found.append((loss.detach(), gradient, figures["safeguard"]))
    (loss, gradient, passed), (loss_swapped, gradient_swapped, passed_swapped) = found
    torch.testing.assert_close(loss, loss_swapped, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient, gradient_swapped, rtol=1e-3, atol=1e-4 * gradient.norm().item())
    assert passed.item() == pytest.approx(passed_swapped.item(), rel=1e-4)
    assert passed.item() < 1 or mu is None


def _swapped(batch, on):
    import dataclasses

    if not on:
        return batch
    return dataclasses.replace(batch, mean_w=batch.mean_l, mean_l=batch.mean_w)


@pytest.mark.parametrize("none", [0, None])
def test_no_limit_on_the_gradient_is_a_limit_out_of_reach(make_recipe, tmp_path, none):
    after = []
    for name, limit in (("far", 1e9), ("none", none)):
        (tmp_path / name).mkdir()
        recipe, config = make_recipe(training__steps=2, training__max_grad_norm=limit)
        train(
            recipe, config.training, seed=config.seed, run="r", folder=tmp_path / name,
            accelerator=new_accelerator("fp32"),
        )  # fmt: skip
        after.append([p.detach().clone() for p in recipe.network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*after, strict=True))
