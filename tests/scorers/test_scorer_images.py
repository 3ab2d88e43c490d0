"""images.py: every mode to RGB, and the two geometries, against independent computations."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scorer_samples import MEAN, SIZE, STD, hps_reference, noise
from transformers import CLIPImageProcessorPil

from scorers import ScorerError
from scorers.images import fit_and_crop, fit_and_pad, normalize, to_pixels, to_rgb


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    weight = alpha[..., None] / 255.0
    return colour * weight + 255.0 * (1 - weight)


def test_every_kind_becomes_rgb(any_image: Image.Image) -> None:
    result = to_rgb(any_image)
    assert result.mode == "RGB"
    assert sorted(result.size) == sorted(any_image.size)


@pytest.mark.parametrize("antialias", [False, True])
def test_hps_geometry_equals_the_published_order(any_image: Image.Image, antialias: bool) -> None:
    image = to_rgb(any_image)
    ours = normalize(fit_and_pad(to_pixels(image), SIZE, antialias), MEAN, STD)
    torch.testing.assert_close(ours, hps_reference(image, SIZE, antialias), rtol=0, atol=1e-6)


def test_antialias_changes_a_shrunk_image() -> None:
    pixels = to_pixels(Image.fromarray(noise(90, 90)))
    assert (fit_and_pad(pixels, SIZE, True) - fit_and_pad(pixels, SIZE, False)).abs().max() > 0.1


def test_hps_resize_is_not_clamped() -> None:
    edges = Image.fromarray(np.tile(np.array([[[0] * 3], [[255] * 3]], dtype=np.uint8), (4, 8, 1)))
    fitted = fit_and_pad(to_pixels(edges), SIZE)
    assert fitted.min() < 0
    assert fitted.max() > 1


def test_alpha_is_composited_over_white() -> None:
    array = noise(9, 7, 4)
    result = np.asarray(to_rgb(Image.fromarray(array)), dtype=float)
    assert np.abs(result - over_white(array[..., :3], array[..., 3])).max() <= 1


def test_grey_alpha_is_composited_over_white() -> None:
    array = noise(9, 7, 2)
    result = np.asarray(to_rgb(Image.fromarray(array, "LA")), dtype=float)
    expected = over_white(array[..., :1].repeat(3, axis=-1), array[..., 1])
    assert np.abs(result - expected).max() <= 1


def test_premultiplied_grey_alpha_is_read() -> None:
    array = noise(9, 7, 2)
    straight = Image.fromarray(array, "LA")
    result = np.asarray(to_rgb(straight.convert("La")), dtype=float)
    expected = np.asarray(to_rgb(straight), dtype=float)
    assert np.abs(result - expected).max() <= 2


def test_transparent_palette_entry_is_white() -> None:
    image = Image.new("P", (4, 3), 1)
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.info["transparency"] = 1
    assert np.asarray(to_rgb(image)).min() == 255


def test_transparent_colour_of_an_rgb_png_is_white() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (1, 2, 3)).save(buffer, "PNG", transparency=(1, 2, 3))
    assert np.asarray(to_rgb(Image.open(buffer))).min() == 255


@pytest.mark.parametrize("dtype", ["<u2", ">u2", np.int32])
def test_16_bit_grey_is_scaled_to_8_bits(dtype: str | type) -> None:
    levels = noise(9, 7, 0)
    image = Image.fromarray(levels.astype(dtype) * 257)
    assert np.array_equal(np.asarray(to_rgb(image))[..., 0], levels)


def test_16_bit_png_file_is_scaled_to_8_bits() -> None:
    levels, buffer = noise(9, 7, 0), io.BytesIO()
    Image.fromarray(levels.astype(np.uint16) * 257).save(buffer, "PNG")
    assert np.array_equal(np.asarray(to_rgb(Image.open(buffer)))[..., 1], levels)


def test_cmyk_inks_subtract_from_white() -> None:
    array = noise(9, 7, 4)
    expected = (255.0 - array[..., :3]) * (255.0 - array[..., 3:]) / 255
    result = np.asarray(to_rgb(Image.fromarray(array, "CMYK")), dtype=float)
    assert np.abs(result - expected).max() <= 1


def test_exif_rotation_is_applied() -> None:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6  # the camera was turned: show the stored rows as columns from right to left
    array = noise(9, 7)
    Image.fromarray(array).save(buffer, "PNG", exif=exif)
    assert np.array_equal(np.asarray(to_rgb(Image.open(buffer))), np.rot90(array, k=-1))


def test_the_given_image_stays_as_it_was() -> None:
    image = Image.fromarray(noise(9, 7, 4))
    before = image.tobytes()
    to_rgb(image).putpixel((0, 0), (1, 2, 3))
    assert (image.mode, image.tobytes()) == ("RGBA", before)


@pytest.mark.parametrize("size", [(61, 40), (37, 90), (SIZE, SIZE), (35, 32), (7, 5), (1, 5), (200, 64)])
def test_clip_geometry_on_tensors_follows_the_processor(size: tuple[int, int]) -> None:
    image = Image.fromarray(64 + noise(*size) // 2)  # away from black and white, where PIL clips between its passes
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    reference = processor(images=image, return_tensors="pt", do_normalize=False)["pixel_values"][0]
    ours = fit_and_crop(to_pixels(image), SIZE, SIZE)
    assert (ours - reference).abs().max() < 2.5 / 255  # PIL rounds to 8 bits after each of its two passes


@pytest.mark.parametrize(
    ("image", "word"),
    [
        ("a.png", "PIL.Image"),
        (Image.new("RGB", (0, 5)), "empty"),
        (Image.new("F", (5, 5)), "mode F"),
    ],
)
def test_what_cannot_be_read_says_so_in_one_line(image: object, word: str) -> None:
    with pytest.raises(ScorerError, match=word) as caught:
        to_rgb(image)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_cut_file_is_an_error() -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise(90, 90)).save(buffer, "JPEG")
    cut = Image.open(io.BytesIO(buffer.getvalue()[:2000]))
    with pytest.raises(ScorerError, match="cannot be read"):
        to_rgb(cut)
