"""Encoding a store into shards: what is missing of a cache is made here, by two functions handed in."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from PIL import Image, ImageOps
from torch import Tensor

from diffdpo.data.framing import Framing, Shot, Size
from diffdpo.data.shards import Rows, Shards, joined
from diffdpo.data.triplets import TripletStore
from diffdpo.errors import UserError
from diffdpo.progress import progress

EncodeImages = Callable[[list[Image.Image]], tuple[Tensor, Tensor]]
"""B images of one size -> posterior mean and standard deviation [B, C, H, W], shifted and scaled."""

EncodePrompts = Callable[[list[str]], dict[str, Tensor]]
"""B prompts -> named conditioning tensors [B, ...]."""

BUCKET = "bucket"
"""In shards of a cache with buckets: width and height of every pair's, [n, 2] int64 pixels."""


@dataclass(frozen=True)
class Encoding:
    """How a store is encoded.

    Args:
        dtype: that floating-point tensors are stored in.
        batch_size: pairs encoded at a time.
    """

    store: TripletStore
    framing: Framing
    encode_images: EncodeImages
    encode_prompts: EncodePrompts
    dtype: torch.dtype
    batch_size: int

    def prompts(self, shards: Shards, prompts: Sequence[str]) -> None:
        """Shards of conditioning: tensors [n, ...] by name."""

        def encode(some: Sequence[str]) -> Rows:
            return {name: self._stored(tensor) for name, tensor in self.encode_prompts(list(some)).items()}

        with progress("encoding prompts", len(prompts)) as advance:
            shards.fill(prompts, 2 * self.batch_size, encode, advance)

    def latents(self, shards: Shards) -> None:
        """Shards of pairs: `mean` and `std` [n, 2V, C, H, W], `sizes` [n, 2V, 4]; view by view, the chosen image
        first. With buckets each bucket has its own three, `mean/832x1216` and so on, of the pairs that are in it."""
        first = None if self.framing.size else self._shots(0)[0].image.size

        def encode(indices: Sequence[int]) -> Rows:
            shots = [(index, self._shots(index, first)) for index in indices]
            return self._by_bucket(shots) if self.framing.step else self._encoded([made for _, made in shots])

        with progress("encoding pairs", len(self.store)) as advance:
            shards.fill(range(len(self.store)), self.batch_size, encode, advance)

    def _by_bucket(self, pairs: Sequence[tuple[int, list[Shot]]]) -> Rows:
        def bucket(pair: tuple[int, list[Shot]]) -> Size:
            return pair[1][0].image.size

        parts: list[Rows] = [{BUCKET: torch.tensor([bucket(pair) for pair in pairs])}]
        for size, members in groupby(sorted(pairs, key=bucket), bucket):
            rows = self._encoded([shots for _, shots in members])
            parts.append({name + of_bucket(size): tensor for name, tensor in rows.items()})
        return joined(parts)

    def _encoded(self, pairs: Sequence[list[Shot]]) -> Rows:
        shots = [shot for pair in pairs for shot in pair]
        at_once = 2 * self.batch_size
        parts = [
            self.encode_images([shot.image for shot in shots[start : start + at_once]])
            for start in range(0, len(shots), at_once)
        ]
        means, stds = (torch.cat([self._stored(tensor) for tensor in side]) for side in zip(*parts, strict=True))
        flat = {"mean": means, "std": stds, "sizes": torch.tensor([shot.numbers for shot in shots])}
        return {name: tensor.reshape(len(pairs), -1, *tensor.shape[1:]) for name, tensor in flat.items()}

    def _shots(self, index: int, wanted: Size | None = None) -> list[Shot]:
        """All views of a pair.

        Raises:
            UserError: an image that cannot be opened, or is not of the wanted size.
        """
        triplet = self.store[index]
        where = f"{self.store.folder}: pair {triplet.pair_id!r}"
        images = [_opened(content, where) for content in (triplet.chosen, triplet.rejected)]
        for image in images:
            if wanted is not None and image.size != wanted:
                sizes = f"an image of {_by(image.size)} pixels where the first one has {_by(wanted)}"
                raise UserError(f"{where} has {sizes}; give a size to bring all to")
        return self.framing.views(triplet.pair_id, images)

    def _stored(self, tensor: Tensor) -> Tensor:
        """In the cache's dtype, on the CPU; masks and token ids keep theirs."""
        tensor = tensor.detach().cpu()
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor


def of_bucket(size: Sequence[int]) -> str:
    """What the names of a bucket's tensors end in."""
    return f"/{size[0]}x{size[1]}"


def distinct(prompts: Sequence[str]) -> tuple[list[int], list[str]]:
    """For every prompt its row, and the prompts by row, each once; row 0 is the empty one."""
    rows = {"": 0}
    places = [rows.setdefault(prompt, len(rows)) for prompt in prompts]
    return places, list(rows)


def _opened(content: bytes, where: str) -> Image.Image:
    try:
        return _upright_rgb(Image.open(io.BytesIO(content)))
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{where} has an image that cannot be opened ({error})") from None


def _upright_rgb(image: Image.Image) -> Image.Image:
    """As a person sees it on a white page: EXIF rotation applied, transparency composited."""
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image.convert("RGB")


def _by(size: Size) -> str:
    return f"{size[0]} x {size[1]}"
