"""The K-wise ranking loss against a double loop, the soft-label loss against cross-entropies, in plain Python."""

import itertools
import math

import pytest
import torch

from diffdpo.losses import ranking_loss, soft_label_loss


def by_hand(scores, ranks, real):
    terms = [
        math.log1p(math.exp(-(scores[i] - scores[j])))
        for i, j in itertools.permutations(range(len(scores)), 2)
        if ranks[i] < ranks[j] and real[i] and real[j]
    ]
    return sum(terms) / len(terms) if terms else 0.0


SCORES = [[0.3, -1.2, 2.0, 0.9], [1.0, 1.0, -3.0, 0.2], [5.0, 4.0, 3.0, 2.0]]
RANKS = [[1, 2, 3, 4], [1, 1, 2, 3], [1, 1, 1, 1]]
REAL = [[True] * 4, [True, True, True, False], [True] * 4]


def test_all_ordered_pairs_of_a_prompt_are_averaged():
    loss = ranking_loss(torch.tensor(SCORES, dtype=torch.float64), torch.tensor(RANKS), torch.tensor(REAL))
    expected = [by_hand(*row) for row in zip(SCORES, RANKS, REAL, strict=True)]
    assert loss.tolist() == pytest.approx(expected, rel=1e-12)


def test_two_answers_are_bradley_terry():
    loss = ranking_loss(torch.tensor([[0.4, -0.6]]), torch.tensor([[1, 2]]))
    assert loss.item() == pytest.approx(math.log1p(math.exp(-1.0)))


def test_only_ties_give_zero_and_no_gradient():
    scores = torch.tensor([[1.0, 2.0]], requires_grad=True)
    ranking_loss(scores, torch.tensor([[1, 1]])).sum().backward()
    assert torch.equal(scores.grad, torch.zeros(1, 2))


def test_absent_answers_may_hold_anything():
    scores = torch.tensor([[1.0, 0.0, float("inf")]], requires_grad=True)
    loss = ranking_loss(scores, torch.tensor([[1, 2, 3]]), torch.tensor([[True, True, False]]))
    loss.sum().backward()
    assert loss.item() == pytest.approx(math.log1p(math.exp(-1.0)))
    assert scores.grad.isfinite().all()


def published(score_0, score_1, label_0):
    """label_0 * CE_0 + label_1 * CE_1 over the softmax of the two scores, in float64 (PickScore's training)."""
    total = math.log(math.exp(score_0) + math.exp(score_1))
    return label_0 * (total - score_0) + (1 - label_0) * (total - score_1)


PAIRS = [(2.0, 0.5, 1.0), (2.0, 0.5, 0.0), (0.3, -1.0, 0.5), (1.0, 1.0, 0.5), (-0.7, 2.2, 0.8)]


def test_soft_labels_are_two_cross_entropies():
    first, second, label = (torch.tensor(column, dtype=torch.float64) for column in zip(*PAIRS, strict=True))
    loss = soft_label_loss(first - second, label)
    assert loss.tolist() == pytest.approx([published(*pair) for pair in PAIRS], rel=1e-12)


def test_a_tie_pulls_the_scores_together():
    difference = torch.tensor([1.0, -1.0, 0.0], requires_grad=True)
    soft_label_loss(difference, torch.full((3,), 0.5)).sum().backward()
    above, below, equal = difference.grad.tolist()
    assert above > 0 > below
    assert equal == 0


def test_a_hard_label_is_a_ranking_of_two():
    scores = torch.tensor([[0.4, -0.6], [3.0, 1.0]], dtype=torch.float64)
    ranked = ranking_loss(scores, torch.tensor([[1, 2], [2, 1]]))
    soft = soft_label_loss(scores[:, 0] - scores[:, 1], torch.tensor([1.0, 0.0]))
    assert ranked.tolist() == pytest.approx(soft.tolist(), rel=1e-12)


def test_far_apart_scores_stay_finite():
    difference = torch.tensor([400.0, -400.0], requires_grad=True)
    loss = soft_label_loss(difference, torch.tensor([1.0, 1.0]))
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([0.0, 400.0])
    assert difference.grad.tolist() == pytest.approx([0.0, -1.0])
