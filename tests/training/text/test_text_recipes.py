"""Each recipe's loss against a computation of its own, from whole logits and in float64."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from text_samples import language_model, pairs, rankings

from diffdpo.config import TextDpoLossConfig, TextKtoLossConfig
from diffdpo.data.text.examples import Example, Limits, examples
from diffdpo.data.text.records import Demonstration, Ranking, pair
from diffdpo.data.text.tokens import Encoder, Tokens
from diffdpo.models.text.causal_lm import CausalLM
from diffdpo.models.text.reward_model import RewardModel
from diffdpo.training.text.calibration import expected_calibration_error
from diffdpo.training.text.dpo import TextDpo
from diffdpo.training.text.kto import TextKto
from diffdpo.training.text.reference import LiveReference
from diffdpo.training.text.reward import RewardTraining
from diffdpo.training.text.sft import TextSft

PAIRS = [pair(str(n), row["prompt"], row["chosen"], row["rejected"]) for n, row in enumerate(pairs(8))]
RANKED = [Ranking(str(n), r["prompt"], tuple(r["answers"]), tuple(r["ranks"])) for n, r in enumerate(rankings(6))]
PLACES = [(index, 0) for index in range(8)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return language_model(tmp_path_factory.mktemp("lm") / "tiny")


@pytest.fixture
def model(folder) -> CausalLM:
    """A policy that has moved: its LoRA is not what it was at first."""
    found = CausalLM(str(folder), lora_rank=2)
    torch.manual_seed(1)
    for parameter in found.network.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn_like(parameter)
    return found


def encoded(model: Any, records: list[Any], purpose: Any) -> list[Example]:
    return examples(records, purpose, Encoder.of(model.tokenizer, "m"), Limits(96))[0]


def logp(lm: torch.nn.Module, tokens: Tokens, *, adapter: bool = True) -> float:
    """log pi(y|x) of one sequence alone, in float64."""
    if not adapter:
        lm.disable_adapters()
    ids = torch.tensor(tokens.ids)
    with torch.no_grad():
        found = lm(input_ids=ids[None]).logits[0].double().log_softmax(1)
    if not adapter:
        lm.enable_adapters()
    return sum(float(found[t - 1, ids[t]]) for t in range(len(ids)) if tokens.completion[t])


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


class Terms(NamedTuple):
    """Of one answer."""

    logp: float
    ref: float
    n: int

    @property
    def ratio(self) -> float:
        return self.logp - self.ref

    @property
    def mean(self) -> float:
        return self.logp / self.n


def dpo_terms(model: CausalLM, example: Example) -> list[Terms]:
    """Of the chosen and of the rejected answer."""
    return [Terms(logp(model.lm, a), logp(model.lm, a, adapter=False), a.n_completion) for a in example.answers]


def log_sigma(x: float) -> float:
    return math.log(sigma(x))


def log_odds(x: float) -> float:
    return x - math.log(1 - math.exp(x))


EXPECTED: dict[str, tuple[TextDpoLossConfig, Callable[[Terms, Terms], float]]] = {
    "sigmoid": (TextDpoLossConfig(0.1), lambda w, r: -log_sigma(0.1 * (w.ratio - r.ratio))),
    "cdpo": (
        TextDpoLossConfig(0.1, label_smoothing=0.2),
        lambda w, r: -0.8 * log_sigma(0.1 * (w.ratio - r.ratio)) - 0.2 * log_sigma(0.1 * (r.ratio - w.ratio)),
    ),
    "robust": (
        TextDpoLossConfig(0.1, "robust", label_smoothing=0.1),
        lambda w, r: (-0.9 * log_sigma(0.1 * (w.ratio - r.ratio)) + 0.1 * log_sigma(0.1 * (r.ratio - w.ratio))) / 0.8,
    ),
    "hinge": (TextDpoLossConfig(0.1, "hinge"), lambda w, r: max(0.0, 1 - 0.1 * (w.ratio - r.ratio))),
    "ipo": (TextDpoLossConfig(0.1, "ipo"), lambda w, r: (w.ratio - r.ratio - 5) ** 2),
    "ipo, mean": (
        TextDpoLossConfig(0.1, "ipo", average="mean"),
        lambda w, r: (w.ratio / w.n - r.ratio / r.n - 5) ** 2,
    ),
    "reference free": (TextDpoLossConfig(0.1, reference_free=True), lambda w, r: -log_sigma(0.1 * (w.logp - r.logp))),
    "simpo": (TextDpoLossConfig(2.0, "simpo", gamma=0.7), lambda w, r: -log_sigma(2 * (w.mean - r.mean) - 0.7)),
    "orpo": (
        TextDpoLossConfig(0.5, "orpo"),
        lambda w, r: -w.mean - 0.5 * log_sigma(log_odds(w.mean) - log_odds(r.mean)),
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_dpo_and_its_relatives(model, name):
    config, expected = EXPECTED[name]
    found = encoded(model, PAIRS, "pairs")
    reference = LiveReference(model.reference()) if config.has_reference else None
    recipe = TextDpo(model.network, found, range(8), range(8), filler=0, loss=config, reference=reference)
    losses = [expected(*dpo_terms(model, example)) for example in found]
    assert recipe.loss(model.network, PLACES)[0].item() == pytest.approx(sum(losses) / 8, rel=1e-4)
    assert recipe.evaluate()["eval/loss"] == pytest.approx(sum(losses) / 8, rel=1e-4)


def test_an_untouched_policy_gives_ln_2(folder):
    model = CausalLM(str(folder), lora_rank=2)
    found = encoded(model, PAIRS, "pairs")
    reference = LiveReference(model.reference())
    recipe = TextDpo(
        model.network, found, range(8), range(8), filler=0, loss=TextDpoLossConfig(0.1), reference=reference
    )
    loss, figures = recipe.loss(model.network, PLACES)
    assert loss.item() == torch.tensor(2.0).log().item()
    assert figures["rewards/accuracies"].item() == 0  # a tie is not a win
    assert recipe.evaluate()["eval/accuracy"] == 0


def test_a_batch_of_eight_is_eight_batches_of_one(model):
    found = encoded(model, PAIRS, "pairs")
    recipe = TextDpo(
        model.network, found, range(8), (), filler=0, loss=TextDpoLossConfig(0.1),
        reference=LiveReference(model.reference()),
    )  # fmt: skip
    ones = [recipe.loss(model.network, [place])[0].item() for place in PLACES]
    assert recipe.loss(model.network, PLACES)[0].item() == pytest.approx(sum(ones) / 8, abs=1e-5)


def test_sft_is_the_mean_over_the_tokens_of_the_whole_step(model):
    records = [Demonstration(str(n), "p", "x" * (1 + 3 * n)) for n in range(8)]
    found = encoded(model, records, "demonstrations")
    recipe = TextSft(model.network, found, range(8), range(8), filler=0)
    total = -sum(logp(model.lm, example.answers[0]) for example in found)
    tokens = sum(example.answers[0].n_completion for example in found)
    recipe.announce(PLACES, ())
    micro = [recipe.loss(model.network, PLACES[start : start + 2])[0].item() for start in range(0, 8, 2)]
    assert sum(micro) / 4 == pytest.approx(total / tokens, rel=1e-5)
    figures = recipe.evaluate()
    assert figures["eval/loss"] == pytest.approx(total / tokens, rel=1e-5)
    assert figures["eval/perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-4)


class Kto(NamedTuple):
    loss: float
    z: float
    accuracy: float


def kto_expected(model: CausalLM, found: list[Example], config: TextKtoLossConfig) -> Kto:
    """Ethayarajh et al. 2024, eq. 8: the loss, and z_0 of each prompt with the answer of the next other prompt."""
    n = len(found)
    mismatched = []
    for i, example in enumerate(found):
        other = next(found[(i + k) % n] for k in range(1, n) if found[(i + k) % n].prompt != example.prompt)
        own, theirs = example.answers[0], other.answers[0]
        prompt = own.ids[: -own.n_completion]
        answer = theirs.ids[-theirs.n_completion :]
        tokens = Tokens((*prompt, *answer), (*[False] * len(prompt), *[True] * len(answer)))
        mismatched.append(logp(model.lm, tokens) - logp(model.lm, tokens, adapter=False))
    z = max(0.0, sum(mismatched) / n)
    losses, right = [], 0
    for example in found:
        ratio = logp(model.lm, example.answers[0]) - logp(model.lm, example.answers[0], adapter=False)
        right += ratio > z if example.ranks == (1,) else ratio < z
        if example.ranks == (1,):
            losses.append(config.desirable_weight * (1 - sigma(config.beta * (ratio - z))))
        else:
            losses.append(config.undesirable_weight * (1 - sigma(config.beta * (z - ratio))))
    return Kto(sum(losses) / n, z, right / n)


def test_the_reference_is_computed_by_length_and_kept_in_order(model):
    found, widths = encoded(model, PAIRS, "pairs"), []
    loss = TextDpoLossConfig(0.1)
    recipe = TextDpo(model.network, found, range(8), (), filler=0, loss=loss, reference=None)
    expected = [[logp(model.lm, answer) for answer in found[row].answers] for row in range(7, 0, -1)]
    model.network.register_forward_hook(lambda module, inputs, output: widths.append(inputs[0].shape[1]))
    torch.testing.assert_close(recipe.compute_reference(range(7, 0, -1), 2), torch.tensor(expected), atol=1e-3, rtol=0)
    assert widths == sorted(widths)
    assert len(set(widths)) > 2


@pytest.mark.parametrize("packed", [False, True])
def test_kto_counts_from_mismatched_answers_of_the_whole_step(model, packed, monkeypatch):
    for name, parameter in model.network.named_parameters():
        if "lora_B" in name:
            parameter.data.neg_()  # so that the mean of the log-ratios lies above 0, below which it is clipped
    config = TextKtoLossConfig(0.3, undesirable_weight=1.5)
    found = encoded(model, PAIRS[:4], "verdicts")
    asked: list[int] = []
    original = model.reference()

    def reference(ids: torch.Tensor, *inputs: Any, **options: Any) -> torch.Tensor:
        asked.append(ids.numel())
        return original(ids, *inputs, **options)

    recipe = TextKto(
        model.network, found, range(8), range(8), filler=0, loss=config, max_length=96, packed=packed,
        reference=LiveReference(reference),
    )  # fmt: skip
    if packed:
        monkeypatch.setattr("diffdpo.training.text.recipe.pad", None)
    expected = kto_expected(model, found, config)
    recipe.announce(PLACES, ())
    micro = [recipe.loss(model.network, PLACES[start : start + 2]) for start in range(0, 8, 2)]
    assert sum(loss.item() for loss, _ in micro) / 4 == pytest.approx(expected.loss, rel=1e-4)
    assert micro[0][1]["kl"].item() == pytest.approx(expected.z, abs=1e-4)
    assert expected.z > 0.01
    # The held-out examples come sorted by length, and each prompt's mismatched answer is that of the next one.
    expected = kto_expected(model, [found[row] for row in recipe.held_out_rows], config)
    figures = recipe.evaluate()
    assert figures["eval/loss"] == pytest.approx(expected.loss, rel=1e-4)
    assert figures["eval/accuracy"] == expected.accuracy
    assert 0 < expected.accuracy < 1
    assert expected.z > 0.01
    asked.clear()
    assert recipe.evaluate() == figures
    assert asked == []  # the reference, which does not move, was asked the first time


def test_a_k_wise_batch_is_the_sum_over_its_pairs_at_k_forwards(folder):
    model = RewardModel(str(folder))
    found = encoded(model, RANKED, "rankings")
    recipe = RewardTraining(model, found, range(6), range(6), filler=0)
    scored: list[int] = []
    model.network.register_forward_hook(lambda module, inputs, output: scored.append(len(inputs[0])))
    loss = recipe.loss(model.network, PLACES[:6])[0].item()
    assert scored == [sum(len(example.answers) for example in found)]
    losses, margins = [], []
    for example in found:
        scores = [recipe.mean_score([answer]) for answer in example.answers]
        n = len(scores)
        ahead = [scores[i] - scores[j] for i in range(n) for j in range(n) if example.ranks[i] < example.ranks[j]]
        losses.append(-sum(math.log(sigma(d)) for d in ahead) / len(ahead))
        margins += ahead
    assert {len(example.answers) for example in found} == {3, 4}
    assert loss == pytest.approx(sum(losses) / 6, rel=1e-5)
    figures = recipe.evaluate()
    assert figures["eval/accuracy"] == pytest.approx(sum(d > 0 for d in margins) / len(margins))
    assert figures["eval/calibration_error"] == pytest.approx(expected_calibration_error(torch.tensor(margins)))


def test_calibration_error():
    sure, unsure = math.log(0.95 / 0.05), math.log(0.55 / 0.45)
    margins = torch.tensor([sure] * 9 + [-sure] + [unsure] * 6 + [-unsure] * 4)
    assert expected_calibration_error(margins) == pytest.approx(0.5 * 0.05 + 0.5 * 0.05)
    assert expected_calibration_error(torch.zeros(4)) == pytest.approx(0.5)  # all tied is all wrong, at one half


def test_the_config_refuses_what_has_no_meaning():
    from diffdpo.errors import UserError

    for bad, message in (
        ({"kind": "ipo", "label_smoothing": 0.1}, "loss.label_smoothing"),
        ({"gamma": 0.5}, "loss.gamma"),
        ({"kind": "orpo", "average": "mean"}, "loss.average"),
        ({"beta": 0.0}, "loss.beta"),
    ):
        with pytest.raises(UserError, match=message):
            dataclasses.replace(TextDpoLossConfig(0.1), **bad)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def either(request, tmp_path_factory) -> Path:
    return language_model(tmp_path_factory.mktemp("lm") / request.param, request.param)


def gradients(recipe: Any, places: list[tuple[int, int]]) -> tuple[float, list[torch.Tensor]]:
    recipe.network.zero_grad()
    loss, _ = recipe.loss(recipe.network, places)
    loss.backward()
    return loss.item(), [parameter.grad.clone() for parameter in recipe.network.parameters()]


def test_packing_changes_no_loss_and_no_gradient(either):
    """Pairs, single answers and rankings; prompts of several lengths, shared and side by side in a row."""
    records = [pair(str(n), "so " * n + "on", " yes" * (1 + n % 3), " no" * (1 + n % 4)) for n in range(8)]
    lm, reward = CausalLM(str(either)), RewardModel(str(either))
    lm.refuse_unpackable()
    reward.refuse_unpackable()
    pairs_, ranked = encoded(lm, records, "pairs"), encoded(reward, RANKED, "rankings")
    single = encoded(lm, records, "demonstrations")
    config = TextDpoLossConfig(0.1, reference_free=True)
    kinds: list[tuple[Callable[..., Any], int]] = [
        (partial(TextSft, lm.network, single, range(8), range(8), filler=0), 8),
        (partial(RewardTraining, reward, ranked, range(6), range(6), filler=0), 6),
        (partial(TextDpo, lm.network, pairs_, range(8), range(8), filler=0, loss=config, reference=None), 8),
    ]
    for make, n in kinds:
        padded, packed = make(packed=False), make(packed=True)
        (loss, grads), (loss_2, grads_2) = gradients(padded, PLACES[:n]), gradients(packed, PLACES[:n])
        assert loss_2 == pytest.approx(loss, abs=1e-5)
        for a, b in zip(grads, grads_2, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
        for key, value in padded.evaluate().items():
            assert packed.evaluate()[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key


def test_a_network_that_mixes_packed_sequences_is_refused(either, monkeypatch):
    from diffdpo.errors import UserError
    from diffdpo.models.text import loading as text_loading

    model = CausalLM(str(either))
    monkeypatch.setattr(text_loading, "_every_pair", lambda backbone, mask: torch.ones_like(mask).tril()[:, None])
    with pytest.raises(UserError, match="does not keep packed sequences apart"):
        model.refuse_unpackable()
