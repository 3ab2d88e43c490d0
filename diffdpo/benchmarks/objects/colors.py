"""The colour of an object by CLIP, as GenEval has it: the object's box, grey around it where its pixels are known, and
the colour whose sentences are nearest. GenEval used OpenAI's ViT-L/14.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from diffdpo.benchmarks.objects.rules import COLORS, Found

CLIP = "openai/clip-vit-large-patch14"
SENTENCES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
"""A colour's embedding is the mean of theirs, each of length 1 before and the mean after."""
GREY = (153, 153, 153)
"""What stands around an object."""


class ColorNamer:
    """Names colours of objects. CLIP is opened with the first one."""

    def __init__(self, model: str = CLIP, device: str = "cpu") -> None:
        self.name, self.device = model, torch.device(device)
        self._texts: dict[str, Tensor] = {}

    def __call__(self, image: Image.Image, objects: Sequence[Found]) -> list[str]:
        """The colour of each object, all of one class, in an RGB image."""
        from scorers.shared import prepare_square

        with torch.inference_mode():
            crops = [prepare_square(crop(image, one), self._clip.size) for one in objects]
            embedded = self._clip.embed(torch.stack(crops).to(self.device))
            nearest = (embedded @ self._embedded(objects[0].label).T).argmax(dim=1)
        return [COLORS[int(index)] for index in nearest]

    def open(self) -> None:
        """Open CLIP now.

        Raises:
            ScorerError: it cannot be opened.
        """
        _ = self._clip, self._tokenizer

    def _embedded(self, name: str) -> Tensor:
        """One row for each of `COLORS`, [10, D], of an object of the class `name`."""
        if name not in self._texts:
            rows = []
            for color in COLORS:
                texts = [sentence.format(color=color, name=name) for sentence in SENTENCES]
                limit = self._clip.model.config.text_config.max_position_embeddings
                tokens = self._tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
                embedded = self._clip.model.get_text_features(**tokens.to(self.device)).pooler_output.float()
                rows.append(F.normalize(F.normalize(embedded, dim=-1).mean(dim=0), dim=-1))
            self._texts[name] = torch.stack(rows)
        return self._texts[name]

    @cached_property
    def _clip(self) -> Any:
        from scorers.shared import load_backbone

        return load_backbone(self.name, self.device, torch.float32)

    @cached_property
    def _tokenizer(self) -> Any:
        from scorers.shared import load_tokenizer

        return load_tokenizer(self.name, self._clip.model.config.text_config.vocab_size)


def crop(image: Image.Image, one: Found) -> Image.Image:
    """An object's box, at least one pixel; grey outside of its pixels where these are known."""
    if one.mask is not None:
        pixels = np.where(one.mask[..., None], np.asarray(image), np.uint8(GREY[0]))
        image = Image.fromarray(pixels.astype(np.uint8))
    left, top, right, bottom = (round(edge) for edge in one.box)
    return image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
