"""The cache of encoded triplets: image latents and prompt conditioning, made once and shared by all runs.

It is built by two functions handed in and knows no model. Beside the latents it keeps what a trainer needs of
every pair. One folder per (store content, encoder, dtype, size), in shards that are read through memory maps.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from diffdpo.data.triplets import TripletStore
from diffdpo.errors import UserError, unknown
from diffdpo.locks import alone
from diffdpo.progress import Advance, progress
from diffdpo.runs import claim, write_bytes

EncodeImages = Callable[[list[Image.Image]], tuple[Tensor, Tensor]]
"""B images of one size -> posterior mean and standard deviation [B, C, H, W], shifted and scaled."""

EncodePrompts = Callable[[list[str]], dict[str, Tensor]]
"""B prompts -> named conditioning tensors [B, ...]."""

_Numbers = tuple[int, int, int, int]
"""Height and width as stored, top and left of the crop after the resize; pixels."""

_Fitted = tuple[Image.Image, _Numbers]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

PAIRS_PER_SHARD = 256
PROMPTS_PER_SHARD = 256


@dataclass(frozen=True)
class Batch:
    """B encoded pairs. Floating-point tensors are float32, whatever the cache stores."""

    mean_w: Tensor
    """[B, C, H, W] posterior mean of the chosen images, scaled."""
    std_w: Tensor
    mean_l: Tensor
    """[B, C, H, W] of the rejected ones."""
    std_l: Tensor
    conditioning: dict[str, Tensor]
    """[B, ...] by name."""
    unconditional: dict[str, Tensor]
    """[B, ...] that of the empty prompt, for caption dropout."""
    sizes: Tensor
    """[B, 2, 4] int64, pixels: height and width of the chosen and the rejected image as stored, then top and
    left of the crop after the resize."""
    pair_ids: list[str]
    ties: Tensor
    """[B] bool."""
    margins: Tensor
    """[B] float32, NaN where unknown."""

    def to(self, device: str | torch.device) -> Batch:
        """The same batch with its tensors on `device`."""

        def moved(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: moved(tensor) for name, tensor in value.items()}
            return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

        return replace(self, **{field.name: moved(getattr(self, field.name)) for field in fields(self)})


class LatentCache:
    """The encoded triplets of one store, in the store's order; index with the store's indices."""

    def __init__(self, folder: Path, store: TripletStore) -> None:
        self.folder = folder
        self._rows, self._prompts = _distinct_prompts(store)
        self._pair_ids = store.pair_ids
        self._ties = torch.from_numpy(store.ties)
        self._margins = torch.from_numpy(store.margins).float()
        self._shards: dict[Path, dict[str, Tensor]] = {}

    @classmethod
    def open_or_build(
        cls,
        root: str | Path,
        store: TripletStore,
        *,
        encode_images: EncodeImages,
        encode_prompts: EncodePrompts,
        encoder: Mapping[str, Any],
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        size: int | None = None,
        batch_size: int = 8,
    ) -> LatentCache:
        """The cache of `store` below `root`: opened if there, gone on with if half done, built otherwise.

        The encoding functions are only called for what is missing. A second process that wants the same cache
        waits for the first.

        Args:
            encoder: all that decides what the encoding functions return (model, its content hash, ...), in
                JSON values.
            size: resize every image's shortest edge to this many pixels and cut the centre square; None takes
                the images as they are, then all must have one size.
            batch_size: pairs encoded at a time.

        Raises:
            UserError: an image cannot be opened, images differ in size, the store is empty.
        """
        if dtype not in DTYPES:
            raise unknown("dtype", dtype, DTYPES)
        if len(store) == 0:
            raise UserError(f"{store.folder}: no triplets in it, so there is nothing to encode")
        settings = {"store": store.fingerprint(), "encoder": dict(encoder), "dtype": dtype, "size": size}
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        cache = cls(Path(root) / key, store)
        cache.folder.mkdir(parents=True, exist_ok=True)
        with alone(cache.folder, wait=True):
            _remove_partial(cache.folder)
            run = claim(cache.folder, "latents", settings)
            if run.state != "complete":
                builder = _Builder(cache.folder, store, encode_images, encode_prompts, DTYPES[dtype], size, batch_size)
                builder.prompts(cache._prompts)
                builder.latents()
                run.finish({"pairs": len(store), "prompts": len(cache._prompts)})
        return cache

    def __len__(self) -> int:
        return len(self._pair_ids)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The pairs at `indices`, on the CPU."""
        latents = _stack([self._latents_at(index) for index in indices])
        mean, std = latents["mean"], latents["std"]
        prompts = [self._conditioning_at(self._rows[index]) for index in indices]
        which = torch.tensor(indices)
        return Batch(
            mean_w=mean[:, 0],
            std_w=std[:, 0],
            mean_l=mean[:, 1],
            std_l=std[:, 1],
            conditioning=_stack(prompts),
            unconditional=_stack([self._conditioning_at(0)] * len(prompts)),
            sizes=latents["sizes"],
            pair_ids=[self._pair_ids[index] for index in indices],
            ties=self._ties[which],
            margins=self._margins[which],
        )

    def _latents_at(self, index: int) -> dict[str, Tensor]:
        shard, row = divmod(range(len(self))[index], PAIRS_PER_SHARD)
        return {name: tensor[row] for name, tensor in self._open("latents", shard).items()}

    def _conditioning_at(self, prompt: int) -> dict[str, Tensor]:
        shard, row = divmod(prompt, PROMPTS_PER_SHARD)
        return {name: tensor[row] for name, tensor in self._open("prompts", shard).items()}

    def _open(self, kind: str, shard: int) -> dict[str, Tensor]:
        """A shard's tensors, memory-mapped: pages are read when touched and the system may drop them."""
        path = _path(self.folder, kind, shard)
        if path not in self._shards:
            try:
                self._shards[path] = load_file(path)
            except (SafetensorError, OSError) as error:
                raise UserError(f"{path}: missing or damaged ({error}); remove the folder to encode again") from None
        return self._shards[path]


@dataclass(frozen=True)
class _Builder:
    """Writes the shards that are missing from a cache's folder."""

    folder: Path
    store: TripletStore
    encode_images: EncodeImages
    encode_prompts: EncodePrompts
    dtype: torch.dtype
    size: int | None
    batch_size: int

    def prompts(self, prompts: Sequence[str]) -> None:
        """Shards of conditioning: tensors [n, ...] by name."""
        with progress("encoding prompts", len(prompts)) as advance:
            for shard, part in enumerate(_cut(prompts, PROMPTS_PER_SHARD)):
                path = _path(self.folder, "prompts", shard)
                if not path.exists():
                    rows = [self.encode_prompts(list(some)) for some in _cut(part, 2 * self.batch_size)]
                    _write(path, {name: self._joined([row[name] for row in rows]) for name in rows[0]})
                advance(len(part))

    def latents(self) -> None:
        """Shards of pairs: `mean` and `std` [n, 2, C, H, W], `sizes` [n, 2, 4]; the chosen image first."""
        pixels = self._fit(self.store[0].chosen, self.store.pair_ids[0])[0].size
        with progress("encoding pairs", len(self.store)) as advance:
            for shard, part in enumerate(_cut(range(len(self.store)), PAIRS_PER_SHARD)):
                path = _path(self.folder, "latents", shard)
                if path.exists():
                    advance(len(part))
                else:
                    _write(path, self._encoded(part, pixels, advance))

    def _encoded(self, part: Sequence[int], pixels: tuple[int, int], advance: Advance) -> dict[str, Tensor]:
        encoded: list[tuple[Tensor, Tensor]] = []
        sizes: list[_Numbers] = []
        for indices in _cut(part, self.batch_size):
            images, numbers = zip(*self._images(indices, pixels), strict=True)
            encoded.append(self.encode_images(list(images)))
            sizes += numbers
            advance(len(indices))
        means, stds = zip(*encoded, strict=True)
        flat = {"mean": self._joined(means), "std": self._joined(stds), "sizes": torch.tensor(sizes)}
        return {name: tensor.reshape(-1, 2, *tensor.shape[1:]) for name, tensor in flat.items()}

    def _images(self, indices: Sequence[int], pixels: tuple[int, int]) -> Iterator[_Fitted]:
        for index in indices:
            triplet = self.store[index]
            for content in (triplet.chosen, triplet.rejected):
                image, numbers = self._fit(content, triplet.pair_id)
                if image.size != pixels:
                    sizes = f"an image of {_by(image.size)} pixels where the first one has {_by(pixels)}"
                    where = f"{self.store.folder}: pair {triplet.pair_id!r}"
                    raise UserError(f"{where} has {sizes}; give a size to bring all to")
                yield image, numbers

    def _fit(self, content: bytes, pair_id: str) -> _Fitted:
        """The image, its shortest edge resized to `size`, the centre cut out; its row of `Batch.sizes`."""
        try:
            image = _upright_rgb(Image.open(io.BytesIO(content)))
        except (OSError, ValueError, SyntaxError) as error:
            where = f"{self.store.folder}: pair {pair_id!r}"
            raise UserError(f"{where} has an image that cannot be opened ({error})") from None
        width, height = image.size
        if self.size is None:
            return image, (height, width, 0, 0)
        scale = self.size / min(width, height)
        resized = round(width * scale), round(height * scale)
        if resized != image.size:
            image = image.resize(resized, Image.Resampling.LANCZOS)
        left, top = ((edge - self.size) // 2 for edge in resized)
        return image.crop((left, top, left + self.size, top + self.size)), (height, width, top, left)

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Stored in the cache's dtype; masks and token ids keep theirs."""
        tensor = torch.cat([part.detach().cpu() for part in parts])
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor


def _distinct_prompts(store: TripletStore) -> tuple[list[int], list[str]]:
    """For every pair the row of its prompt, and the prompts; row 0 is the empty one."""
    rows = {"": 0}
    of_pair = [rows.setdefault(caption, len(rows)) for caption in store.captions]
    return of_pair, list(rows)


def _stack(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: _plain(torch.stack([row[name] for row in rows])) for name in rows[0]}


def _plain(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _upright_rgb(image: Image.Image) -> Image.Image:
    """As a person sees it on a white page: EXIF rotation applied, transparency composited."""
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return image.convert("RGB")


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    write_bytes(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}))


def _path(folder: Path, kind: str, shard: int) -> Path:
    return folder / f"{kind}-{shard:05d}.safetensors"


def _cut(items: Sequence[Any], length: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + length] for start in range(0, len(items), length))


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _remove_partial(folder: Path) -> None:
    for path in folder.glob("*.partial"):
        path.unlink()
