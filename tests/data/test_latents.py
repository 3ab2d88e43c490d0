import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from latent_samples import Encoder, opened, pair, store_of
from PIL import Image
from torch import Tensor

from diffdpo.data import shards
from diffdpo.data.framing import Framing
from diffdpo.data.triplets import TripletStore
from diffdpo.errors import UserError


def directly(contents: Sequence[bytes]) -> tuple[Tensor, Tensor]:
    return Encoder().encode_images([Image.open(io.BytesIO(content)) for content in contents])


@pytest.fixture
def store(tmp_path: Path) -> TripletStore:
    captions = ["a cat", "a dog on a mat", "a cat"]
    return store_of(tmp_path / "store", [pair(number, caption) for number, caption in enumerate(captions)])


def test_a_batch_equals_direct_encoding(tmp_path: Path, store: TripletStore) -> None:
    batch = opened(tmp_path / "cache", store, Encoder()).batch([2, 0])
    mean_w, std_w = directly([store[2].chosen, store[0].chosen])
    mean_l, std_l = directly([store[2].rejected, store[0].rejected])
    for found, wanted in zip(
        (batch.mean_w, batch.std_w, batch.mean_l, batch.std_l), (mean_w, std_w, mean_l, std_l), strict=True
    ):
        assert torch.equal(found, wanted)


def test_a_batch_carries_the_conditioning_of_its_prompts(tmp_path: Path, store: TripletStore) -> None:
    batch = opened(tmp_path / "cache", store, Encoder()).batch([1, 2])
    wanted = Encoder().encode_prompts(["a dog on a mat", "a cat"])
    assert batch.conditioning.keys() == wanted.keys()
    assert all(torch.equal(batch.conditioning[name], wanted[name]) for name in wanted)


def test_a_batch_carries_the_empty_prompt_for_every_pair(tmp_path: Path, store: TripletStore) -> None:
    batch = opened(tmp_path / "cache", store, Encoder()).batch([1, 2])
    wanted = Encoder().encode_prompts(["", ""])
    assert all(torch.equal(batch.unconditional[name], wanted[name]) for name in wanted)


def test_a_batch_carries_what_the_store_says_of_its_pairs(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", [replace(pair(0), label_0=0.5, label_1=0.5, margin=0.0), pair(1)])
    batch = opened(tmp_path / "cache", store, Encoder()).batch([0, 1])
    assert (batch.pair_ids, batch.ties.tolist(), batch.margins.tolist()) == (
        ["pair-0", "pair-1"],
        [True, False],
        [0.0, 1.25],
    )


def test_every_prompt_is_encoded_once(tmp_path: Path, store: TripletStore) -> None:
    encoder = Encoder()
    opened(tmp_path / "cache", store, encoder)
    assert encoder.prompts == ["", "a cat", "a dog on a mat"]


def test_a_complete_cache_is_opened_without_encoding(tmp_path: Path, store: TripletStore) -> None:
    first = opened(tmp_path / "cache", store, Encoder())
    encoder = Encoder()
    again = opened(tmp_path / "cache", store, encoder)
    assert (encoder.images, encoder.prompts) == (0, [])
    assert torch.equal(again.batch([1]).mean_l, first.batch([1]).mean_l)


@pytest.mark.parametrize(
    "options",
    [{"encoder": {"vae": "other"}}, {"dtype": "float16"}, {"framing": Framing(size=4)}],
    ids=["encoder", "dtype", "size"],
)
def test_other_settings_have_another_cache(tmp_path: Path, store: TripletStore, options: dict[str, Any]) -> None:
    first = opened(tmp_path / "cache", store, Encoder())
    assert opened(tmp_path / "cache", store, Encoder(), **options).folder != first.folder


def test_another_store_has_another_cache(tmp_path: Path, store: TripletStore) -> None:
    other = store_of(tmp_path / "other", [pair(9)])
    folders = {opened(tmp_path / "cache", which, Encoder()).folder for which in (store, other)}
    assert len(folders) == 2


def test_an_interrupted_cache_goes_on_with_the_missing_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "ROWS", 2)
    store = store_of(tmp_path / "store", [pair(number) for number in range(5)])
    whole = opened(tmp_path / "whole", store, Encoder(), batch_size=1)
    interrupted = Encoder()
    interrupted.fail_at = 7
    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path / "cache", store, interrupted, batch_size=1)
    encoder = Encoder()
    cache = opened(tmp_path / "cache", store, encoder, batch_size=1)
    assert (encoder.images, encoder.prompts) == (6, [])
    assert [path.read_bytes() for path in sorted(cache.folder.iterdir())] == [
        path.read_bytes() for path in sorted(whole.folder.iterdir())
    ]


def test_half_precision_is_stored_and_float32_is_given(tmp_path: Path, store: TripletStore) -> None:
    batch = opened(tmp_path / "cache", store, Encoder(), dtype="bfloat16").batch([0])
    mean, _ = directly([store[0].chosen])
    assert batch.mean_w.dtype == torch.float32
    assert torch.equal(batch.mean_w, mean.bfloat16().float())


def test_token_ids_keep_their_kind(tmp_path: Path, store: TripletStore) -> None:
    batch = opened(tmp_path / "cache", store, Encoder(), dtype="bfloat16").batch([0])
    assert batch.conditioning["tokens"].dtype == torch.int64


def test_images_of_differing_size_are_refused_by_name(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", [pair(0), pair(1, size=(8, 12))])
    with pytest.raises(UserError, match=r"pair 'pair-1' has an image of 8 x 12 pixels.*8 x 8.*give a size"):
        opened(tmp_path / "cache", store, Encoder())


def test_a_size_cuts_the_centre_out_of_both_images(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", [pair(0, size=(8, 12))])
    batch = opened(tmp_path / "cache", store, Encoder(), framing=Framing(size=8)).batch([0])
    centre = Image.open(io.BytesIO(store[0].rejected)).crop((0, 2, 8, 10))
    assert torch.equal(batch.mean_l, Encoder().encode_images([centre])[0])
    assert batch.sizes.tolist() == [[[12, 8, 2, 0]] * 2]


def test_a_size_resizes_the_shortest_edge(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", [pair(0), pair(1, size=(16, 20))])
    batch = opened(tmp_path / "cache", store, Encoder(), framing=Framing(size=4)).batch([0, 1])
    assert batch.mean_w.shape == (2, 3, 2, 2)
    assert batch.sizes[:, 0].tolist() == [[8, 8, 0, 0], [20, 16, 0, 0]]


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", [pair(0), replace(pair(1), jpg_0=b"no image")])
    with pytest.raises(UserError, match="pair 'pair-1' has an image that cannot be opened"):
        opened(tmp_path / "cache", store, Encoder())


def test_a_damaged_shard_is_named(tmp_path: Path, store: TripletStore) -> None:
    path = opened(tmp_path / "cache", store, Encoder()).folder / "latents-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"latents-00000\.safetensors: missing or damaged"):
        opened(tmp_path / "cache", store, Encoder()).batch([0])


def test_a_store_without_triplets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no triplets in it"):
        opened(tmp_path / "cache", store_of(tmp_path / "store", []), Encoder())


def test_an_unknown_dtype_is_refused(tmp_path: Path, store: TripletStore) -> None:
    with pytest.raises(UserError, match="did you mean 'float16'"):
        opened(tmp_path / "cache", store, Encoder(), dtype="float15")
