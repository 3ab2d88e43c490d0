"""Bradley-Terry: the reward-model loss for K ranked answers, and for two with a soft label. Serves scorers and text."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def ranking_loss(scores: Tensor, ranks: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of -log sigmoid(score_i - score_j) over the ordered pairs of each prompt (Ouyang et al. 2022, eq. 1).

    Args:
        scores: [N, K] float.
        ranks: [N, K]; 1 is best, equal ranks are a tie and give no pair.
        mask: [N, K] bool, False where a prompt has fewer than K answers.

    Returns:
        [N]; 0 for a prompt without an ordered pair. K = 2 is the Bradley-Terry loss. Without ties there are K(K-1)/2
        pairs, as in the paper; a tie leaves fewer, over which the mean then is.
    """
    better = ranks[:, :, None] < ranks[:, None, :]
    if mask is not None:
        better = better & mask[:, :, None] & mask[:, None, :]
    # Absent answers may hold anything, infinities too: keep them out of the arithmetic, not only out of the sum.
    differences = (scores[:, :, None] - scores[:, None, :]).masked_fill(~better, 0.0)
    losses = -F.logsigmoid(differences) * better
    return losses.sum((1, 2)) / better.sum((1, 2)).clamp_min(1)


def soft_label_loss(difference: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of a soft label and the softmax of two scores: PickScore's loss (Kirstain et al. 2023, sec. 3).

    Args:
        difference: [N] float, score of the first answer minus that of the second.
        label: [N] in [0, 1], the first answer's share of the preference; a tie is 0.5.

    Returns:
        [N]; for labels of 1 and 0 the Bradley-Terry loss. The paper's KL divergence is this less the label's entropy
        (ln 2 for a tie), which no gradient sees.
    """
    return -(label * F.logsigmoid(difference) + (1 - label) * F.logsigmoid(-difference))
