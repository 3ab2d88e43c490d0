from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import scorers
from scorers.embedding import embed


@pytest.mark.parametrize("name", ["shapes-pickscore", "shapes-hpsv2"])
def test_the_embedding_is_what_the_score_is_made_of(name: str) -> None:
    scorer = scorers.load(name, batch_size=2)
    noise = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    images = [Image.fromarray(pixels) for pixels in noise]
    found = embed(scorer, images)
    assert found.norm(dim=1).tolist() == pytest.approx([1.0] * 3, abs=1e-5)
    text = scorer.encoded(["a red circle on a white background"])  # type: ignore[attr-defined]
    scored = scorer.score(["a red circle on a white background"] * 3, images)
    assert torch.allclose(scorer.factor * found @ next(iter(text.values())), scored, atol=1e-4)  # type: ignore[attr-defined]
    assert embed(scorer, []).shape == (0, 0)


def test_a_scorer_without_an_encoder_is_refused() -> None:
    with pytest.raises(scorers.ScorerError, match="shapes-exact has no image encoder"):
        embed(scorers.load("shapes-exact"), [Image.new("RGB", (8, 8))])
