"""Which attention kernel a step of training takes."""

from __future__ import annotations

import pytest
import torch
from torch.backends.cuda import flash_sdp_enabled

from diffdpo.models.attention import training_kernel


@pytest.mark.parametrize(("side", "half", "flash"), [(8, True, False), (8, False, True), (32, True, True)])
def test_plain_products_are_for_short_sequences_in_half_precision(side, half, flash):
    with training_kernel(torch.zeros(1, 4, side, side), half):
        assert flash_sdp_enabled() is flash
    assert flash_sdp_enabled()
