"""`vlm-judge`: a vision-language model asked how good an image is, or which of two is better. Every answer is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from scorers.base import check_pairs
from scorers.chat.asking import Asked, Asker, Model, open_endpoint
from scorers.chat.questions import agreed
from scorers.errors import ScorerError
from scorers.images import to_rgb
from scorers.vlm.options import Options, make_options
from scorers.vlm.questions import choice, rating


def vlm_judge(
    model: str | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    **options: Any,
) -> VLMJudge:
    """What `scorers.load("vlm-judge", ...)` calls.

    `model`: a hub name or local folder; with `endpoint=`, the server's name for it; or a `.json` file of options.
    `options`: the fields of `Options`.
    """
    chosen, written = make_options(model, options)
    return VLMJudge(chosen, _model(chosen, device, dtype if dtype is not None else written))


class VLMJudge:
    """One `model`, asked by `options`."""

    name = "vlm-judge"

    def __init__(self, options: Options, model: Model) -> None:
        self._options = options
        self.scale = f"what the model says on a scale of {options.low} to {options.high}"
        asked = ("question", "pair_question", "low", "high")
        self.settings = {"scorer": self.name, **model.settings, **{part: getattr(options, part) for part in asked}}
        self._asker = Asker(options, model)

    def score(self, prompts: Sequence[str], images: Sequence[Image.Image]) -> Tensor:
        """One number per pair of prompt and image: Tensor [N] float32 on the CPU, in units of `scale`."""
        check_pairs(prompts, images)
        options = self._options

        def questions() -> Iterator[Asked]:
            for index, (prompt, image) in enumerate(zip(prompts, images, strict=True)):
                upright = _upright(image, f"image {index}")
                question = rating(options.question, prompt, upright, options.low, options.high)
                yield f"image {index} ({prompt[:60]!r})", question

        return torch.tensor(self._asker.ask(questions()), dtype=torch.float32)

    def compare(
        self, prompts: Sequence[str], images_a: Sequence[Image.Image], images_b: Sequence[Image.Image]
    ) -> Tensor:
        """Per prompt 1 if its image of `images_a` is better, 0 if that of `images_b` is, else 0.5: Tensor [N] float32.

        Each pair is asked about in both orders. A win must be one in both: what the order decides is a tie.
        """
        check_pairs(prompts, images_a)
        check_pairs(prompts, images_b)
        template = self._options.pair_question

        def questions() -> Iterator[Asked]:
            for index, (prompt, a, b) in enumerate(zip(prompts, images_a, images_b, strict=True)):
                about = f"pair {index} ({prompt[:60]!r})"
                first, second = _upright(a, f"pair {index}, image a"), _upright(b, f"pair {index}, image b")
                yield about, choice(template, prompt, first, second)
                yield about, choice(template, prompt, second, first)

        values = self._asker.ask(questions())
        outcomes = [agreed(ab, 1 - ba) for ab, ba in zip(values[::2], values[1::2], strict=True)]
        return torch.tensor(outcomes, dtype=torch.float32)


def _model(options: Options, device: str | torch.device, dtype: str | torch.dtype | None) -> Model:
    """Only the one that is used is imported: a judge behind an endpoint needs no transformers."""
    if options.endpoint is not None:
        return open_endpoint(options)
    from scorers.vlm.local import LocalModel

    return LocalModel(options.model or "", device, dtype)


def _upright(image: Image.Image, what: str) -> Image.Image:
    try:
        return to_rgb(image)
    except ScorerError as error:
        raise ScorerError(f"vlm-judge: {what}: {error}") from error
