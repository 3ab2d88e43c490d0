"""The recipe against the formula of Wallace et al., written out in float64 with diffusers' own noise schedule."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from diffusers import DDPMScheduler

from diffdpo.data.triplets import TripletStore
from diffdpo.objectives import draw
from diffdpo.training.diffusion_dpo import DiffusionDpo
from diffdpo.training.loop import new_accelerator, train
from diffdpo.training.runner import load_model, open_cache, split_rows

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
            model, cache, rows or train_rows, held_out, config.loss, seed=config.seed,
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


def formula(recipe, policy, reference, examples, beta, seed=0):
    """-log sigmoid(-(beta/2) [(e_w - ref_w) - (e_l - ref_l)]) per pair, float64 throughout."""
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
    inside = (error(policy, *w) - error(reference, *w)) - (error(policy, *lost) - error(reference, *lost))
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
    from diffdpo.training.order import Order

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
    batch = recipe.cache.batch(recipe.train_rows)
    embeds = recipe._noise(batch, [0] * len(recipe.train_rows)).inputs[2]["prompt_embeds"]
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
