"""Detectors and the namer of colours in the true layouts of transformers; and a programmed detector."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detector_samples import save_mask2former, save_yolos
from PIL import Image

from diffdpo.benchmarks.objects.checker import ObjectCheck
from diffdpo.benchmarks.objects.colors import GREY, ColorNamer, crop
from diffdpo.benchmarks.objects.detectors import TransformersDetector
from diffdpo.benchmarks.objects.rules import COLORS, Found
from diffdpo.benchmarks.registry import Case
from diffdpo.errors import UserError
from diffdpo.shapes.weights import PICKSCORE

LABELS = ("keyboard", "person", "dog")
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def yolos(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_yolos(tmp_path_factory.mktemp("yolos"), LABELS)


def test_boxes(yolos: str) -> None:
    detector = TransformersDetector(yolos)
    assert detector.labels == {"person", "computer keyboard", "dog"}
    objects = detector(PICTURE)
    assert objects
    for one in objects:
        assert one.label == "computer keyboard"
        assert one.score > 0.3
        assert one.mask is None
        # Boxes of random weights may reach beyond the picture; they are in its pixels, not in 0..1.
        assert max(map(abs, one.box)) > 1
    again = detector(PICTURE)
    assert [(one.label, one.score, one.box) for one in again] == [(one.label, one.score, one.box) for one in objects]


def test_masks(tmp_path: Path) -> None:
    objects = TransformersDetector(save_mask2former(tmp_path, LABELS))(PICTURE)
    assert objects
    for one in objects:
        assert one.mask is not None
        assert one.mask.shape == (40, 60)
        left, top, right, bottom = map(int, one.box)
        assert one.mask[top:bottom, left:right].sum() == one.mask.sum() > 0
        assert one.mask[top].any()
        assert one.mask[:, right - 1].any()


def test_what_is_no_detector_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"detector .*: cannot be opened"):
        TransformersDetector(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip", "architectures": ["CLIPModel"]}))
    with pytest.raises(UserError, match="is CLIPModel, neither object detection nor segments"):
        TransformersDetector(str(tmp_path))


def test_classes_that_the_detector_lacks_are_named(yolos: str) -> None:
    check = ObjectCheck(lambda: TransformersDetector(yolos), lambda image, objects: [], ["dog", "zebra", "kite"])
    with pytest.raises(UserError, match="knows no kite, zebra; take one that was trained on COCO"):
        check.prepare()


class Programmed:
    """Finds a person in the red, a dog in the blue pixels of a picture."""

    labels = frozenset({"person", "dog"})

    def __call__(self, image: Image.Image) -> list[Found]:
        pixels = np.asarray(image)
        found = []
        for label, channel in (("person", 0), ("dog", 2)):
            rows, columns = np.nonzero(pixels[..., channel] > 200)
            if len(rows):
                box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                found.append(Found(label, 0.95, tuple(map(float, box)), pixels[..., channel] > 200))
        return found


def test_a_programmed_detector_through_the_whole_check() -> None:
    def colors(image: Image.Image, objects: Sequence[Found]) -> list[str]:
        means = [np.asarray(crop(image, one)).reshape(-1, 3).mean(axis=0) for one in objects]
        return [("red", "green", "blue")[int(mean.argmax())] for mean in means]

    def verdict(picture: Image.Image, *include: dict[str, Any]) -> tuple[bool, str]:
        found = check(picture, Case("p", "00000", {}, {"tag": "position", "include": include}))
        return found.parts["exact"], found.why

    check = ObjectCheck(Programmed, colors, ["person", "dog"])
    picture = Image.new("RGB", (60, 30))
    picture.paste((255, 0, 0), (0, 5, 20, 25))
    person, dog = {"class": "person", "count": 1}, {"class": "dog", "count": 1}
    assert verdict(picture, person) == (True, "")
    assert verdict(picture, person, dog) == (False, "dog: 1 wanted, 0 found")
    picture.paste((0, 0, 255), (40, 5, 60, 25))
    assert verdict(picture, person, {**dog, "position": ["right of", 0]}) == (True, "")
    assert verdict(picture, person, {**dog, "position": ["above", 0]}) == (
        False,
        "dog: above wanted, is right of",
    )
    assert verdict(picture, {**person, "color": "red"}, {**dog, "color": "blue"}) == (True, "")
    assert verdict(picture, {**dog, "color": "red"}) == (False, "dog: 1 red wanted, found 1 blue")


def test_around_an_object_of_known_pixels_is_grey() -> None:
    picture = Image.new("RGB", (8, 8), (255, 0, 0))
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:6, 2:4] = True
    seen = np.asarray(crop(picture, Found("dog", 1.0, (2.0, 2.0, 6.0, 6.0), mask)))
    assert seen.shape == (4, 4, 3)
    assert (seen[:, :2] == (255, 0, 0)).all()
    assert (seen[:, 2:] == GREY).all()
    assert crop(picture, Found("dog", 1.0, (3.2, 3.2, 3.4, 3.4))).size == (1, 1)


def test_colors_are_those_of_the_nearest_sentences() -> None:
    """Against the same in plain steps: the mean of three sentences for each colour, the largest cosine."""
    from transformers import AutoTokenizer, CLIPModel

    from scorers.shared import prepare_square

    objects = [Found("circle", 1.0, (0.0, 0.0, 30.0, 30.0)), Found("circle", 1.0, (20.0, 5.0, 60.0, 40.0))]
    clip = str(PICKSCORE)  # of the micro world: it knows "red" and "circle"
    named = ColorNamer(clip)(PICTURE, objects)
    model = CLIPModel.from_pretrained(clip, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(clip)
    size = model.config.vision_config.image_size
    expected = []
    with torch.no_grad():
        for one in objects:
            pixels = prepare_square(PICTURE.crop(tuple(map(int, one.box))), size)[None]
            image = model.get_image_features(pixel_values=pixels).pooler_output[0]
            cosines = []
            for color in COLORS:
                total = torch.zeros_like(image)
                for text in (f"{color} circle", f"{color}-colored circle", f"{color} object"):
                    tokens = tokenizer(f"a photo of a {text}", return_tensors="pt", truncation=True, max_length=16)
                    text_row = model.get_text_features(**tokens).pooler_output[0]
                    total += text_row / text_row.norm()
                cosines.append(float(torch.cosine_similarity(image, total, dim=0)))
            expected.append(COLORS[int(np.argmax(cosines))])
    assert named == expected
