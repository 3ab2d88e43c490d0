"""Whether a reward model is as sure as it is right."""

from __future__ import annotations

import torch
from torch import Tensor

BINS = 10


def expected_calibration_error(margins: Tensor, bins: int = BINS) -> float:
    """Mean gap between confidence and accuracy over bins of equal width (Guo et al. 2017, eq. 3).

    Of a pair, the model's confidence is sigmoid(|margin|), which it gives to the answer that it scores higher: between
    1/2 and 1.

    Args:
        margins: [n], score of the better answer less that of the worse; a tie of scores is wrong.

    Returns:
        In [0, 1], every bin weighed by its share of the pairs.
    """
    confidence = torch.sigmoid(margins.double().abs())
    right = (margins > 0).double()
    place = ((confidence - 0.5) * 2 * bins).long().clamp_max(bins - 1)
    gaps = [(right[place == b] - confidence[place == b]).sum().abs() for b in range(bins)]
    return float(torch.stack(gaps).sum() / len(margins))
