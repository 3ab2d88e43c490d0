"""How pictures are cut, against geometry worked out here."""

import numpy as np
import pytest
from PIL import Image

from diffdpo.data.framing import Framing, bucket_sizes, bucket_step, nearest_bucket


def picture(width: int, height: int) -> Image.Image:
    """Red tells the column and green the row of a pixel; blue marks the left half."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.arange(width)[None]
    pixels[..., 1] = np.arange(height)[:, None]
    pixels[:, : width // 2, 2] = 255
    return Image.fromarray(pixels)


def test_buckets_hold_the_area_and_are_multiples_of_the_step():
    buckets = bucket_sizes(1024, bucket_step(1024, 64))
    assert {(1024, 1024), (832, 1216), (1216, 832), (896, 1152), (1344, 768), (640, 1536), (2048, 512)} <= set(buckets)
    for width, height in buckets:
        assert width % 64 == height % 64 == 0
        assert 0.9 * 1024**2 < width * height <= 1024**2
        assert 1 / 4 <= width / height <= 4


@pytest.mark.parametrize(
    ("size", "multiple", "step"),
    [(1024, 64, 64), (1024, 16, 64), (512, 64, 64), (512, 32, 32), (1280, 64, 128), (16, 4, 4)]
)  # fmt: skip
def test_the_step_is_a_sixteenth_in_multiples_of_the_models(size, multiple, step):
    assert bucket_step(size, multiple) == step


def test_little_is_cut_off_in_any_shape():
    """Of a picture w : h in a bucket W : H the smaller ratio of the two ratios is left."""
    buckets = bucket_sizes(1024, 64)
    left = []
    for ratio in np.geomspace(1 / 4, 4, 500):
        width, height = nearest_bucket([(round(10000 * ratio), 10000)], buckets)
        left.append(min(ratio * height / width, width / height / ratio))
    assert min(left) > 0.92
    assert np.mean(left) > 0.96


@pytest.mark.parametrize("order", [1, -1])
def test_a_pair_shares_the_bucket_between_its_two_shapes(order):
    # 2 : 1 and 1 : 2 meet at 1 : 1; 4 : 1 and 1 : 1 at 2 : 1.
    buckets = [(16, 16), (24, 8), (8, 24), (20, 10)]
    assert nearest_bucket([(20, 10), (10, 20)][::order], buckets) == (16, 16)
    assert nearest_bucket([(40, 10), (10, 10)][::order], buckets) == (20, 10)


def test_of_equally_near_buckets_the_largest_is_taken():
    assert nearest_bucket([(10, 10)], [(8, 8), (16, 16)]) == (16, 16)


def test_a_picture_in_its_bucket_is_resized_to_cover_and_cut_along_one_side():
    # 60 x 40 to 20 x 12: scaled by 1/3 to 20 x 13, of which one row too many is cut off.
    first, second = Framing(size=16, step=4).views("p", [picture(60, 40), picture(60, 40)])
    assert first.image.size == (20, 12)
    assert first.numbers == second.numbers == (40, 60, 0, 0)


def test_the_mirror_image_is_the_same_crop_and_says_what_its_left_lacks():
    # 30 x 16 cut to 16 x 16 at left 3: in the mirror 30 - 16 - 3 = 11 columns are missing on the left.
    framing = Framing(size=16, flip=True, crops=2)
    shots = framing.views("p", [picture(30, 16)])
    assert (framing.n_views, len(shots)) == (4, 4)
    for plain, mirrored in zip(shots[::2], shots[1::2], strict=True):
        assert np.array_equal(np.asarray(mirrored.image), np.asarray(plain.image)[:, ::-1])
        height, width, top, left = plain.numbers
        assert mirrored.numbers == (height, width, top, 14 - left)
        assert np.asarray(plain.image)[0, 0].tolist()[:2] == [left, top]
        assert np.asarray(mirrored.image)[0, -1].tolist()[:2] == [left, top]


def test_a_random_crop_is_one_place_for_both_pictures_and_differs_between_pairs():
    framing = Framing(size=16, crops=3)
    places = {}
    for pair in ("a", "b", "c"):
        shots = framing.views(pair, [picture(90, 16), picture(90, 16)])
        assert [shot.numbers for shot in shots[::2]] == [shot.numbers for shot in shots[1::2]]
        places[pair] = [shot.numbers[3] for shot in shots[::2]]
    assert len({left for lefts in places.values() for left in lefts}) > 6
    assert all(0 <= left <= 74 for lefts in places.values() for left in lefts)


def test_random_crops_reach_both_ends():
    shots = Framing(size=16, crops=64).views("p", [picture(18, 16)])
    assert {shot.numbers[3] for shot in shots} == {0, 1, 2}


def test_without_a_size_a_picture_is_only_mirrored():
    plain, mirrored = Framing(flip=True).views("p", [picture(30, 16)])
    assert plain.numbers == mirrored.numbers == (16, 30, 0, 0)
    assert np.array_equal(np.asarray(mirrored.image), np.asarray(plain.image)[:, ::-1])
