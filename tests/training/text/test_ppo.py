"""PPO's parts and losses against computations of their own, in float64 from the papers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ppo_samples import config, open_reward, write_inputs

from diffdpo.config import PpoConfig, PpoLossConfig
from diffdpo.data.text.readers import open_text
from diffdpo.data.text.tokens import Tokens
from diffdpo.errors import UserError
from diffdpo.training.processes import new_accelerator
from diffdpo.training.text.ppo import Ppo
from diffdpo.training.text.ppo_runner import open_ppo
from diffdpo.training.text.ptx import TextStream
from diffdpo.training.text.rollout import Episode, Rollout, RolloutOrder

MakeRecipe = Callable[..., Ppo]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("ppo"))


@pytest.fixture
def make(inputs, tmp_path) -> Callable[..., PpoConfig]:
    return lambda **changes: config(inputs, tmp_path / "run", **changes)


def opened(made: PpoConfig, batch: int = 8) -> Ppo:
    source = open_text(made.data.path)
    recipe = open_ppo(made, source, open_reward, new_accelerator("fp32")).recipe
    recipe.order(batch)
    return recipe


def test_every_pass_over_a_rollout_is_a_fresh_permutation_of_it():
    order = RolloutOrder(batch=4, minibatches=3, epochs=2, seed=5)
    for rollout in range(3):
        passes = [[place for m in range(3) for place in order.at(rollout * 6 + epoch * 3 + m)] for epoch in range(2)]
        for epoch, places in enumerate(passes):
            assert sorted(places) == [(rollout * 12 + n, epoch) for n in range(12)]
        assert [n for n, _ in passes[0]] != [n for n, _ in passes[1]]
    assert order.at(7) == RolloutOrder(4, 3, 2, 5).at(7)
    assert order.rollout_of(13) == range(12, 24)


def test_texts_are_a_function_of_the_answers_place_and_each_is_seen_equally_often():
    texts = [Tokens((1, n), (False, True)) for n in range(6)]
    stream = TextStream(texts, epochs=2, per_answer=3, seed=0)
    places = [(answer, epoch) for answer in range(4) for epoch in range(2)]
    whole = stream.beside(places)
    assert len(whole) == 24
    assert all(whole.count(text) == 4 for text in texts)
    assert TextStream(texts, epochs=2, per_answer=3, seed=0).beside(places[5:6]) == whole[15:18]


def test_what_a_rollout_makes_of_its_episodes():
    """Shaped rewards, penalty, GAE, returns and whitening, written out token by token in float64."""
    torch.manual_seed(0)
    lengths, scores, ended = [3, 1, 4], [2.0, -0.5, 9.0], [True, True, False]
    columns = [[torch.randn(n) for n in lengths] for _ in range(3)]
    episodes = [
        Episode(7 + k, Tokens((0,) * 9, (False,) * 9), ended[k], scores[k], *(column[k] for column in columns))
        for k in range(3)
    ]
    loss = PpoLossConfig(gamma=0.9, lam=0.8)
    rollout = Rollout.of(episodes, loss, kl_coef=0.3, no_end=-1.0)
    expected, returns = [], []
    for k, n in enumerate(lengths):
        logps, ref, values = ([float(x) for x in column[k]] for column in columns)
        rewards = [-0.3 * (a - b) for a, b in zip(logps, ref, strict=True)]
        rewards[-1] += scores[k] if ended[k] else -1.0
        following, own = 0.0, []
        for t in reversed(range(n)):
            delta = rewards[t] + 0.9 * (values[t + 1] if t + 1 < n else 0.0) - values[t]
            following = delta + 0.9 * 0.8 * following
            own.insert(0, following)
        expected.append(own)
        returns.append([a + v for a, v in zip(own, values, strict=True)])
    flat = [a for own in expected for a in own]
    mean = sum(flat) / len(flat)
    deviation = math.sqrt(sum((a - mean) ** 2 for a in flat) / len(flat) + 1e-8)
    for k, n in enumerate(lengths):
        assert rollout.advantages[k, :n].tolist() == pytest.approx([(a - mean) / deviation for a in expected[k]], 1e-4)
        assert rollout.returns[k, :n].tolist() == pytest.approx(returns[k], 1e-4)
    assert rollout.figures["reward"] == pytest.approx((2.0 - 0.5 - 1.0) / 3)
    kl = [sum(float(a) - float(b) for a, b in zip(columns[0][k], columns[1][k], strict=True)) for k in range(3)]
    assert rollout.figures["kl"] == pytest.approx(sum(kl) / 3, abs=1e-6)


def test_before_the_first_step_nothing_has_moved(make):
    """The update's log-probabilities and values are the rollout's to 1e-5, the KL is 0, and the ratio is 1."""
    recipe = opened(make(rollout__temperature=0.7))
    rollout = recipe.rollout_of(0)
    assert rollout.figures["kl"] == 0
    for numbers in ([3, 0, 9, 5], [5], [15, 3]):
        batch = rollout.batch(numbers, recipe.filler)
        old_logps, old_values, _, _ = rollout.old(numbers, batch.completion)
        with torch.no_grad():
            logps, values, _ = recipe.network(*batch, temperature=0.7)
        torch.testing.assert_close(logps, old_logps, atol=1e-5, rtol=0)
        torch.testing.assert_close(values, old_values, atol=1e-5, rtol=0)
    recipe.announce([(n, 0) for n in range(4)], [])
    _, figures = recipe.loss(recipe.network, [(n, 0) for n in range(4)])
    assert figures["clipped"] == 0
    assert recipe.evaluate()["eval/kl"] == 0


def test_answers_are_looked_at_by_length(make):
    recipe, widths = opened(make(rollout__batch_size=2)), []
    recipe.actor_critic.register_forward_hook(lambda module, inputs, output: widths.append(inputs[0].shape[1]))
    recipe.episodes(range(16))
    assert widths == sorted(widths)
    assert len(set(widths)) > 2


def test_an_answer_is_a_function_of_the_seed_its_prompt_and_its_draw(make):
    whole = opened(make(), batch=8).episodes(range(16))
    alone = opened(make(rollout__batch_size=3), batch=2).episodes([11, 5])
    assert [alone[0].tokens, alone[1].tokens] == [whole[11].tokens, whole[5].tokens]
    assert opened(make(), batch=8).episodes([30])[0].tokens.ids[:5] != whole[0].tokens.ids  # another draw of a prompt
    other = {**make().__dict__, "seed": 1}
    assert [e.tokens for e in opened(PpoConfig(**other)).episodes(range(16))] != [e.tokens for e in whole]


def test_the_loss_is_the_papers_over_whole_logits(make, inputs):
    """Clipped surrogate, clipped value loss and 27.8 times the texts' likelihood, in float64 from whole logits."""
    made = make(ptx__path=str(inputs / "texts.jsonl"), ptx__per_answer=2, rollout__temperature=0.8)
    recipe = opened(made, batch=4)
    rollout = recipe.rollout_of(0)
    torch.manual_seed(1)
    for parameter in recipe.network.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    step = [(n, 0) for n in (6, 1, 4, 3)]
    recipe.announce(step, [])
    halves = [recipe.loss(recipe.network, step[:1])[0], recipe.loss(recipe.network, step[1:])[0]]
    loss = (halves[0] * 1 + halves[1] * 3) / 4
    lm, critic = recipe.network.policy.lm.double(), recipe.network.critic.double()
    surrogate, squares, tokens = 0.0, 0.0, 0
    for number, _ in step:
        episode = rollout.episodes[number]
        ids = torch.tensor(episode.tokens.ids)
        with torch.no_grad():
            logps = (lm(ids[None]).logits[0] / 0.8).log_softmax(-1)
            values = critic.head(critic.backbone(ids[None]).last_hidden_state)[0, :, 0]
        first = len(ids) - len(episode.logps)
        for t in range(len(episode.logps)):
            advantage, target = float(rollout.advantages[number, t]), float(rollout.returns[number, t])
            ratio = math.exp(float(logps[first + t - 1, ids[first + t]]) - float(episode.logps[t]))
            surrogate += max(-advantage * ratio, -advantage * min(max(ratio, 0.8), 1.2))
            value, old = float(values[first + t - 1]), float(episode.values[t])
            near = old + min(max(value - old, -0.2), 0.2)
            squares += max((value - target) ** 2, (near - target) ** 2) / 2
            tokens += 1
    likelihood, n_texts = 0.0, 0
    for text in recipe.stream.beside(step):
        ids = torch.tensor(text.ids)
        with torch.no_grad():
            logps = lm(ids[None]).logits[0].log_softmax(-1)
        likelihood += float(logps[:-1].gather(1, ids[1:, None]).sum())
        n_texts += len(ids) - 1
    expected = surrogate / tokens + 0.1 * squares / tokens - 27.8 * likelihood / n_texts
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("source", "message"),
    [("nan", "nan gave nan for the answer"), ("short", "short gave 1 scores for")],
)
def test_scores_that_cannot_be_used_stop_the_run(make, source, message):
    with pytest.raises(UserError, match=message):
        opened(make(reward__source=source)).rollout_of(0)


def test_an_answer_that_does_not_end_is_not_scored(make):
    recipe = opened(make(rollout__max_tokens=1, reward__no_end=-3.0))
    rollout = recipe.rollout_of(0)
    ended = [episode.ended for episode in rollout.episodes.values()]
    assert rollout.figures["ended"] == sum(ended) / 16
    # One token alone: an empty answer, which is scored as any other (here 0), or none that ends.
    assert rollout.figures["reward"] == pytest.approx(-3.0 * (16 - sum(ended)) / 16)
    assert all(episode.score == 0 for episode in rollout.episodes.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training__checkpoint_every": 6}, "training.checkpoint_every: must be a multiple of 4"),
        ({"model__reference": "cached"}, "model.reference: ppo draws its answers while it trains"),
        ({"data__packing": True}, "data.packing"),
        ({"rollout__max_tokens": 96}, "rollout.max_tokens: answers of 96 tokens leave no room"),
        ({"rollout__temperature": 0}, "rollout.temperature"),
        ({"loss__kl_target": -1.0}, "loss.kl_target"),
        ({"loss__kl_target": 1.0, "loss__kl_coef": 0.0}, "loss.kl_coef"),
        ({"reward__no_end": float("inf")}, "reward.no_end"),
        ({"ptx__path": "./nowhere"}, "nowhere: no such file or folder"),
        ({"data__max_prompt_length": 1}, "nothing to train on: 24 records, 24 left out for a prompt longer"),
    ],
)
def test_mistakes_are_said_before_anything_starts(make, changes, message):
    with pytest.raises(UserError, match=message):
        opened(make(**changes))


def test_texts_must_be_plain(make, inputs):
    with pytest.raises(UserError, match=r"prompts\.jsonl: line 1: a query, but this method learns from plain text"):
        opened(make(ptx__path=str(inputs / "prompts.jsonl")))
