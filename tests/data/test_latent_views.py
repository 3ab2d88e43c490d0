"""The cache of encoded triplets with buckets, mirror images and crops."""

import io
from collections import Counter

import pytest
import torch
from latent_samples import Encoder, opened, pair, store_of
from PIL import Image

from diffdpo.data import shards
from diffdpo.data.framing import Framing
from diffdpo.data.latents import LatentCache
from diffdpo.data.triplets import TripletStore

SIZES = [(8, 8), (16, 8), (8, 8), (8, 16), (16, 8), (8, 8), (16, 8)]
"""Of seven pairs."""
FRAMING = Framing(size=8, step=4, flip=True)


@pytest.fixture
def store(tmp_path) -> TripletStore:
    return store_of(tmp_path / "store", [pair(number, size=size) for number, size in enumerate(SIZES)])


@pytest.fixture
def cache(tmp_path, store) -> LatentCache:
    return opened(tmp_path / "cache", store, Encoder(), framing=FRAMING, batch_size=3)


def test_a_view_equals_direct_encoding(store, cache):
    for index, (shots, bucket) in enumerate((FRAMING.views("", images(store, i)), cache.buckets[i]) for i in range(7)):
        assert shots[0].image.size == bucket
        for view in (0, 1):
            chosen, rejected = shots[2 * view : 2 * view + 2]
            batch = cache.batch([index], [view])
            assert torch.equal(batch.mean_w, Encoder().encode_images([chosen.image])[0])
            assert torch.equal(batch.std_l, Encoder().encode_images([rejected.image])[1])
            assert batch.sizes.tolist() == [[list(chosen.numbers), list(rejected.numbers)]]


def images(store: TripletStore, index: int) -> list[Image.Image]:
    return [Image.open(io.BytesIO(content)) for content in (store[index].chosen, store[index].rejected)]


def test_pairs_go_to_the_bucket_of_their_shape(cache):
    assert Counter(cache.buckets) == {(8, 8): 3, (12, 4): 3, (4, 12): 1}


def test_a_batch_equals_its_pairs_one_by_one(cache):
    together, apart = cache.batch([6, 1, 4], [1, 0, 1]), [cache.batch([i], [v]) for i, v in ((6, 1), (1, 0), (4, 1))]
    for name in ("mean_w", "std_w", "mean_l", "std_l", "sizes", "margins"):
        assert torch.equal(getattr(together, name), torch.cat([getattr(one, name) for one in apart]))


def test_pairs_of_two_buckets_share_no_batch(cache):
    with pytest.raises(RuntimeError, match="equal size"):
        cache.batch([0, 1])


def test_shards_of_any_length_hold_the_same(tmp_path, store, cache, monkeypatch):
    monkeypatch.setattr(shards, "ROWS", 2)
    cut = opened(tmp_path / "cut", store, Encoder(), framing=FRAMING, batch_size=2)
    assert len(list(cut.folder.glob("latents-*"))) == 4
    assert cut.buckets == cache.buckets
    for index in range(7):
        assert torch.equal(cut.batch([index], [1]).mean_l, cache.batch([index], [1]).mean_l)


def test_shards_are_bounded_in_bytes(tmp_path, store, monkeypatch):
    # A pair of 8 x 8 pictures: mean and deviation of two [3, 4, 4] in float32, and two times four numbers.
    monkeypatch.setattr(shards, "BYTES", 3 * (2 * 2 * 48 * 4 + 2 * 4 * 8))
    plain = opened(tmp_path / "cache", store, Encoder(), framing=Framing(size=8), batch_size=1)
    assert sorted(path.name for path in plain.folder.glob("latents-*")) == [
        f"latents-0000{number}.safetensors" for number in range(3)
    ]
    assert plain.batch([6]).pair_ids == ["pair-6"]


def test_a_killed_build_goes_on(tmp_path, store, monkeypatch):
    monkeypatch.setattr(shards, "ROWS", 2)
    options = {"framing": FRAMING, "batch_size": 1}
    whole = opened(tmp_path / "whole", store, Encoder(), **options)
    killed, rest = Encoder(), Encoder()
    killed.fail_at = 16  # two images in two views of a pair: within the third shard
    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path / "cache", store, killed, **options)
    again = opened(tmp_path / "cache", store, rest, **options)
    assert rest.images == 12
    assert [path.read_bytes() for path in sorted(again.folder.iterdir())] == [
        path.read_bytes() for path in sorted(whole.folder.iterdir())
    ]


@pytest.mark.parametrize(
    "framing",
    [Framing(size=8), Framing(size=8, step=4), Framing(size=8, flip=True), Framing(size=8, crops=2)],
    ids=["plain", "buckets", "flip", "crops"],
)
def test_every_framing_has_a_cache_of_its_own(cache, store, framing):
    assert opened(cache.folder.parent, store, Encoder(), framing=framing).folder != cache.folder
