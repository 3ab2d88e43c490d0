"""Which attention kernel is taken on a CPU."""

from __future__ import annotations

import pytest
from torch.backends.cuda import flash_sdp_enabled

from diffdpo.models.attention import attention_kernel


@pytest.mark.parametrize(("device", "pixels", "flash"), [("cpu", 64, False), ("cpu", 1024, True), ("cuda", 64, True)])
def test_plain_products_are_for_short_sequences_on_a_cpu(device, pixels, flash):
    with attention_kernel(device, pixels):
        assert flash_sdp_enabled() is flash
    assert flash_sdp_enabled()
