"""The judge's recipe against the published losses, written out in plain Python, over a network of three weights."""

from __future__ import annotations

import io
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from diffdpo.data.judgements import Judgement, Judgements
from diffdpo.errors import UserError
from diffdpo.training.judge.recipe import JudgeTraining
from diffdpo.training.loop import train
from diffdpo.training.processes import new_accelerator


class Toy(nn.Module):
    """score = weight . mean colour of the image, plus the prompt's length times a weight: by hand, a dot product."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([2.0, -1.0, 0.5]))

    def forward(self, pixels, tokens, prompt):
        return pixels.mean((2, 3)) @ self.weight + 0.1 * tokens[prompt, 0]


class ToyJudge:
    def __init__(self):
        self.network = Toy()

    def prepare(self, image):
        return torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 255

    def tokens(self, prompts):
        return torch.tensor([[len(prompt)] for prompt in prompts])

    def logit_scale(self):
        return torch.tensor(1.0)


def png(color) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), tuple(color)).save(buffer, "PNG")
    return buffer.getvalue()


CASES = [
    # caption, label of the first of two images or ranks, judgements of the prompt
    ("a", 1.0, 1),
    ("a cat", 0.0, 4),
    ("two dogs", 0.5, 2),
    ("a house", 0.7, 2),
    ("a tree", (2, 1, 3), 1),
    ("a road", (1, 1, 4, 3), 3),
    ("the sea", (1, 1, 1), 1),
]
COLORS = np.random.default_rng(0).integers(0, 256, (len(CASES), 4, 3))


def judgements(**images) -> Judgements:
    rows = []
    for caption, verdict, count in CASES:
        label = verdict if isinstance(verdict, float) else None
        ranks = verdict if label is None else (1, 1) if label == 0.5 else (1, 2) if label > 0.5 else (2, 1)
        rows.append(Judgement(f"entry {caption}", caption, ranks, label, 1 / count))

    def read(index):
        return images.get("read", lambda i: [png(color) for color in COLORS[i, : len(rows[i].ranks)]])(index)

    return Judgements(Path("judgements.json"), rows, read, lambda: "fingerprint")


ALL = range(len(CASES))


def recipe(rows=ALL, held_out=(), *, weighted=True, source=None) -> JudgeTraining:
    return JudgeTraining(ToyJudge(), source or judgements(), rows, held_out, weighted=weighted, workers=2)


def scores(case: int) -> list[float]:
    """In float64, from the colours themselves."""
    caption, verdict, _ = CASES[case]
    n = 2 if isinstance(verdict, float) else len(verdict)
    return [float(color @ np.array([2.0, -1.0, 0.5]) / 255) + 0.1 * len(caption) for color in COLORS[case, :n]]


def published(case: int) -> float:
    """PickScore's label_0 * CE_0 + label_1 * CE_1; of rankings the mean of -log sigmoid over ordered pairs."""
    verdict, s = CASES[case][1], scores(case)
    if isinstance(verdict, float):
        total = math.log(math.exp(s[0]) + math.exp(s[1]))
        return verdict * (total - s[0]) + (1 - verdict) * (total - s[1])
    terms = [
        math.log(1 + math.exp(s[j] - s[i]))
        for i, j in itertools.permutations(range(len(s)), 2)
        if verdict[i] < verdict[j]
    ]
    return sum(terms) / len(terms) if terms else 0.0


def weighted_mean(cases, weights) -> float:
    return sum(weights[c] * published(c) for c in cases) / sum(weights[c] for c in cases)


PROMPT_WEIGHTS = [1 / count for *_, count in CASES]


def test_pickscore_loss_weighs_by_prompt():
    cases = [0, 1, 2, 3]
    loss, _ = recipe().loss(recipe().network, [(case, 0) for case in cases])
    assert loss.item() == pytest.approx(weighted_mean(cases, PROMPT_WEIGHTS), rel=1e-6)
    assert loss.item() != pytest.approx(weighted_mean(cases, [1] * 7), rel=1e-3)


def test_hps_loss_weighs_all_alike():
    cases = [0, 1]
    loss, _ = recipe(weighted=False).loss(Toy(), [(case, 0) for case in cases])
    behind = [scores(0)[1] - scores(0)[0], scores(1)[0] - scores(1)[1]]  # the image that was not preferred
    expected = [math.log(1 + math.exp(difference)) for difference in behind]
    assert loss.item() == pytest.approx(sum(expected) / 2, rel=1e-6)


def test_pairs_and_rankings_share_a_batch():
    cases = list(range(7))
    loss, _ = recipe().loss(Toy(), [(case, 0) for case in cases])
    assert loss.item() == pytest.approx(weighted_mean(cases, PROMPT_WEIGHTS), rel=1e-6)


def test_a_ranking_of_two_is_a_pair():
    source = judgements()
    first = source.rows[0]
    ranked = Judgement(first.name, first.caption, first.ranks, None, first.weight)
    as_ranking = Judgements(source.path, [ranked, *source.rows[1:]], source.images, source.fingerprint)
    pair, _ = recipe().loss(Toy(), [(0, 0)])
    ranking, _ = recipe(source=as_ranking).loss(Toy(), [(0, 0)])
    assert ranking.item() == pytest.approx(pair.item(), rel=1e-6)


def test_the_gradient_is_that_of_the_formula():
    cases = [0, 1, 2, 4, 5]
    made = recipe()
    made.loss(made.network, [(case, 0) for case in cases])[0].backward()
    weight = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64, requires_grad=True)
    total = sum(PROMPT_WEIGHTS[c] for c in cases)
    loss = torch.zeros((), dtype=torch.float64)
    for c in cases:
        verdict = CASES[c][1]
        n = 2 if isinstance(verdict, float) else len(verdict)
        s = torch.from_numpy(COLORS[c, :n] / 255) @ weight
        if isinstance(verdict, float):
            logp = s - s.exp().sum().log()
            term = -(verdict * logp[0] + (1 - verdict) * logp[1])
        else:
            ordered = [(i, j) for i, j in itertools.permutations(range(n), 2) if verdict[i] < verdict[j]]
            term = sum(-torch.log(1 / (1 + torch.exp(s[j] - s[i]))) for i, j in ordered) / len(ordered)
        loss = loss + PROMPT_WEIGHTS[c] / total * term
    loss.backward()
    torch.testing.assert_close(made.network.weight.grad.double(), weight.grad, rtol=1e-5, atol=1e-7)


def test_the_weights_of_a_whole_step_add_up_to_one():
    """Micro-steps of one optimiser step: their mean is the loss of the step in one piece."""
    step = [(case, 0) for case in (0, 1, 2, 3, 4, 5)]
    made = recipe()
    made.announce(step, [])
    parts = [made.loss(made.network, step[start : start + 2])[0].item() for start in (0, 2, 4)]
    assert sum(parts) / 3 == pytest.approx(weighted_mean([c for c, _ in step], PROMPT_WEIGHTS), rel=1e-6)


def test_an_example_may_come_twice_and_be_announced():
    made = recipe()
    made.announce([(0, 0), (1, 0)], [(0, 1), (0, 1)])
    once, _ = made.loss(made.network, [(0, 0), (1, 0)])
    made.announce([(0, 1), (0, 1)], [])
    twice, _ = made.loss(made.network, [(0, 1), (0, 1)])
    assert twice.item() == pytest.approx(published(0), rel=1e-6)
    assert once.item() == pytest.approx(weighted_mean([0, 1], PROMPT_WEIGHTS), rel=1e-6)


def expected_agreement(case):
    """(share right, mean margin, mean confidence) over the ordered pairs."""
    verdict, s = CASES[case][1], scores(case)
    order = verdict if not isinstance(verdict, float) else ((1, 2) if verdict > 0.5 else (2, 1))
    ahead = [s[i] - s[j] for i, j in itertools.permutations(range(len(s)), 2) if order[i] < order[j]]
    sure = [1 / (1 + math.exp(-abs(a))) for a in ahead]
    return np.array([sum(a > 0 for a in ahead), sum(ahead), sum(sure)]) / len(ahead)


def test_figures_are_what_their_names_say():
    _, figures = recipe().loss(Toy(), [(case, 0) for case in range(7)])
    judged = [0, 1, 3, 4, 5]  # the tie and the ranking of ties say nothing
    accuracy, margin, _ = np.mean([expected_agreement(case) for case in judged], axis=0)
    assert figures["accuracy"].item() == pytest.approx(accuracy, rel=1e-6)
    assert figures["margin"].item() == pytest.approx(margin, rel=1e-5)


def test_held_out_figures_count_every_judgement_alike():
    cases = [0, 1, 3, 4, 5]
    figures = recipe(held_out=cases).evaluate()
    accuracy, margin, confidence = np.mean([expected_agreement(case) for case in cases], axis=0)
    assert figures["eval/loss"] == pytest.approx(np.mean([published(c) for c in cases]), rel=1e-6)
    assert figures["eval/accuracy"] == pytest.approx(accuracy, rel=1e-6)
    assert figures["eval/margin"] == pytest.approx(margin, rel=1e-5)
    assert figures["eval/confidence"] == pytest.approx(confidence, rel=1e-6)
    assert recipe().evaluate() == {}


def test_equal_scores_are_wrong():
    source = judgements(read=lambda index: [png((9, 9, 9))] * 2)
    assert recipe(held_out=[0], source=source).evaluate()["eval/accuracy"] == 0.0


def test_an_image_that_cannot_be_read_is_named():
    source = judgements(read=lambda index: [png((1, 2, 3)), b"no image"])
    with pytest.raises(UserError, match=r"judgements\.json: entry a cat: image 1 of it cannot be read") as caught:
        recipe(source=source).loss(Toy(), [(1, 0)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("undecayed", [False, True])
def test_weight_decay_spares_what_it_is_told_to(tmp_path, undecayed):
    """One step of AdamW by its paper: decay is lr * weight_decay * weight, beside Adam's own step of lr."""
    from diffdpo.config import TrainingConfig

    made = recipe([0])
    config = TrainingConfig(steps=1, batch_size=1, learning_rate=1e-3, weight_decay=0.35)
    spared = [made.network.weight] if undecayed else []
    train(made, config, seed=0, run="r", folder=tmp_path, accelerator=new_accelerator("fp32"), undecayed=spared)
    start = torch.tensor([2.0, -1.0, 0.5])
    moved = made.network.weight.detach() - start * (1.0 if undecayed else 1 - 1e-3 * 0.35)
    torch.testing.assert_close(moved.abs(), torch.full((3,), 1e-3), rtol=1e-3, atol=0)
