"""base.py: the scoring loop, on a scorer without a model whose scores can be computed by hand."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from scorer_samples import noise
from torch import Tensor

from scorers import ScorerError, base
from scorers.base import BatchScorer, Scorer
from scorers.images import to_pixels


class Brightness(BatchScorer):
    """Mean red level (0..255) plus the prompt's length: every pair has a score known in advance."""

    name = "brightness"
    scale = "levels and letters"
    asked: list[str]
    sizes: list[int]

    def __init__(self, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.asked, self.sizes = [], []

    def prepare(self, image: Image.Image) -> Tensor:
        return to_pixels(image.resize((4, 4)))

    def encode(self, prompts: list[str]) -> Tensor:
        self.asked += prompts
        return torch.tensor([[float(len(prompt))] for prompt in prompts])

    def compare(self, pixels: Tensor, texts: Tensor) -> Tensor:
        self.sizes.append(len(pixels))
        return pixels[:, 0].mean((1, 2)) * 255 + texts[:, 0]


def flat(levels: Sequence[int]) -> list[Image.Image]:
    return [Image.new("RGB", (8, 8), (level, 0, 0)) for level in levels]


def test_scores_stay_in_the_order_of_the_images() -> None:
    levels = list(range(50))
    scores = Brightness(batch_size=3, workers=4).score(["a"] * 50, flat(levels))
    torch.testing.assert_close(scores, torch.tensor(levels) + 1.0)


def test_scores_are_float32_on_the_cpu_and_can_be_changed() -> None:
    scores = Brightness(dtype="bf16").score(["a"], flat([3]))
    scores += 1
    assert (scores.dtype, scores.device.type, scores.shape) == (torch.float32, "cpu", (1,))


def test_batches_have_the_asked_size() -> None:
    scorer = Brightness(batch_size=4)
    scorer.score(["a"] * 10, flat([0] * 10))
    assert scorer.sizes == [4, 4, 2]


def test_no_images_give_no_scores() -> None:
    assert Brightness().score([], []).shape == (0,)


def test_each_prompt_is_encoded_once_in_a_call() -> None:
    scorer = Brightness(batch_size=2)
    scorer.score(["a", "bb", "a", "bb", "a"], flat([0] * 5))
    assert scorer.asked == ["a", "bb"]


def test_a_prompt_is_remembered_for_the_next_call() -> None:
    scorer = Brightness()
    scorer.score(["a"], flat([0]))
    scorer.score(["a", "bb"], flat([0, 0]))
    assert scorer.asked == ["a", "bb"]


def test_the_text_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "CACHED_PROMPTS", 3)
    scorer = Brightness()
    prompts = [str(number) for number in range(10)]
    scores = scorer.score(prompts, flat([7] * 10))
    assert list(scorer._cache) == ["7", "8", "9"]
    assert scores.tolist() == [8.0] * 10


def test_images_are_not_all_prepared_ahead() -> None:
    prepared: list[int] = []

    class Watching(Brightness):
        def prepare(self, image: Image.Image) -> Tensor:
            prepared.append(1)
            return super().prepare(image)

        def compare(self, pixels: Tensor, texts: Tensor) -> Tensor:
            ahead.append(len(prepared) - sum(self.sizes))
            return super().compare(pixels, texts)

    ahead: list[int] = []
    Watching(batch_size=2).score(["a"] * 40, flat([0] * 40))
    assert max(ahead) <= 2 * (base.BATCHES_AHEAD + 1)


def test_one_image_file_may_stand_in_many_pairs() -> None:
    readers: set[int] = set()

    class Watched(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            readers.add(threading.get_ident())
            return super().read(size)

    file = Watched()
    Image.fromarray(noise(300, 300)).save(file, "PNG")
    images = [Image.open(file)] * 24  # not decoded yet: threads must not decode it together
    scores = Brightness(batch_size=8, workers=8).score(["a"] * 24, images)
    assert readers == {threading.get_ident()}
    assert len(set(scores.tolist())) == 1


def test_it_is_a_scorer() -> None:
    assert isinstance(Brightness(), Scorer)


@pytest.mark.parametrize(
    ("prompts", "images", "message"),
    [
        (["a", "b"], flat([1]), "2 prompts and 1 images"),
        ("a", flat([1]), "one string"),
        ([None], flat([1]), "prompt 0 is NoneType"),
        (["a", " "], flat([1, 2]), "prompt 1 is empty"),
        (["a", "b"], [*flat([1]), "b.png"], "image 1: an image must be a PIL.Image"),
    ],
)
def test_wrong_input_is_named(prompts: list[str], images: list[Image.Image], message: str) -> None:
    with pytest.raises(ScorerError, match=message):
        Brightness().score(prompts, images)


@pytest.mark.parametrize("count", [1, 2])
def test_a_damaged_image_is_named_by_its_index(count: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise(90, 90)).save(buffer, "JPEG")
    cut = Image.open(io.BytesIO(buffer.getvalue()[:2000]))
    with pytest.raises(ScorerError, match=r"^image 1: the image.*cannot be read"):
        Brightness().score(["a"] * (1 + count), [*flat([1]), *[cut] * count])


def test_a_score_that_is_no_number_is_an_error() -> None:
    class Broken(Brightness):
        def compare(self, pixels: Tensor, texts: Tensor) -> Tensor:
            return torch.full((len(pixels),), float("nan"))

    with pytest.raises(ScorerError, match="nan for image 0"):
        Broken().score(["a"], flat([1]))


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"workers": 0}, {"dtype": "fp8"}, {"device": "gpu"}])
def test_wrong_settings_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ScorerError, match=str(next(iter(options.values())))):
        Brightness(**options)


def test_settings_name_the_scorer_and_its_dtype() -> None:
    assert Brightness(dtype=torch.bfloat16).settings == {"scorer": "brightness", "dtype": "bfloat16"}


def test_a_scorer_without_text_needs_no_encode() -> None:
    class Mute(Brightness):
        encode = BatchScorer.encode

        def compare(self, pixels: Tensor, texts: Tensor) -> Tensor:
            assert texts.shape == (len(pixels), 0)
            return pixels[:, 0].mean((1, 2)) * 255

    assert np.allclose(Mute().score(["a", ""], flat([5, 6])), [5, 6])
