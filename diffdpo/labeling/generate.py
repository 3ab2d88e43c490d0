"""Prompts to seeded images: where they come from, how they are told apart, and a folder of them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from diffdpo.data.png import encode_png
from diffdpo.data.prompts import Prompt
from diffdpo.errors import UserError
from diffdpo.progress import progress
from diffdpo.runs import UNREAD, claimed, content_hash, write_bytes

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

    from diffdpo.models.sampling import Sampling

PROMPTS = "prompts.jsonl"
_IMAGES = "[0-9]" * 5 + "*.png"
_LANGUAGE = ("words", "smollm2")
_PIPELINE, _LORA = "model_index.json", "pytorch_lora_weights.safetensors"


class ImageSource(Protocol):
    """Whatever makes images of prompts."""

    name: str
    """What the store's `model_0` and `model_1` say."""
    batch_size: int

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that decides an image beside prompt and seed, in JSON values."""
        ...

    @property
    def apart(self) -> bool:
        """Whether one thread may draw while another scores: it pays, and moves no bit of either."""
        ...

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """An image for each (prompt, seed)."""
        ...


class ModelImages:
    """Images from a diffusers model. It is opened with the first image: a finished folder costs nothing."""

    def __init__(
        self,
        model: str,
        sampling: Sampling,
        *,
        lora: str | None = None,
        path: str | None = None,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        compiled: bool = False,
    ) -> None:
        """`model`: a folder or hub name. `path`: where it really is, when `model` is a short name for it."""
        self._model, self._lora, self._compiled = path or model, lora, compiled
        self._sampling, self._dtype, self.device = sampling, dtype, device
        self.batch_size = sampling.batch_size
        self.name = " + ".join(_short(part) for part in (model, lora) if part)

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """Reads a local model whole, once, to hash it."""
        return self._described(identity)

    def expected(self) -> Mapping[str, Any]:
        """The settings of a run to come, for a dry run: asks no hub."""
        return self._described(lambda part, file: identity(part, file) if Path(part).exists() else {"revision": UNREAD})

    def _described(self, identify: Callable[[str, str], Mapping[str, str]]) -> dict[str, Any]:
        return {
            "model": {"name": self.name, **identify(self._model, _PIPELINE)},
            "lora": identify(self._lora, _LORA) if self._lora else None,
            "steps": self._sampling.steps,
            "guidance": self._sampling.guidance,
            "size": self._sampling.size,
            "batch_size": self._sampling.batch_size,
            "device": self.device.partition(":")[0],
            "dtype": str(self._dtype or "torch.float32").removeprefix("torch."),
            **({"compile": True} if self._compiled else {}),  # a folder says nothing of what it did not use
        }

    def where(self) -> str:
        """Where model and LoRA would come from. Nothing is fetched or opened.

        Raises:
            UserError: one is neither here nor a name that a hub could know, or the model is no pipeline.
        """
        if Path(self._model).is_file() and Path(self._model).suffix != ".safetensors":
            raise UserError(f"model {self._model!r}: neither a diffusers folder nor a .safetensors file")
        if Path(self._model).is_dir() and not (Path(self._model) / _PIPELINE).is_file():
            raise UserError(f"model {self._model!r}: no {_PIPELINE} in it, so it is no diffusers pipeline")
        return "; ".join([_find("model", self._model)] + ([_find("LoRA", self._lora)] if self._lora else []))

    def memory_gb(self) -> float | None:
        """What the weights take, in 1e9 bytes; None for a model that is still on the hub."""
        import torch

        from diffdpo.models.memory.weights import weights_gb

        return weights_gb(self._model, self._dtype or torch.float32)

    @property
    def apart(self) -> bool:
        """On a CUDA GPU, where nothing is drawn in float32.

        Scorers turn TF32 off while they compute, and do so for the whole process. A CPU's attention kernel holds for
        the whole process as well, and either would take the cores from the other.
        """
        from diffdpo.models.sampling import computes_in_half

        return self.device.startswith("cuda") and computes_in_half(self._pipeline)

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        from diffdpo.models.sampling import generate
        from scorers.compiled import plain_compile_errors

        with plain_compile_errors():
            return generate(self._pipeline, prompts, seeds, self._sampling)

    @cached_property
    def _pipeline(self) -> DiffusionPipeline:
        import torch

        from diffdpo.models.compiled import compile_blocks
        from diffdpo.models.sampling import denoiser, load_pipeline

        dtype = self._dtype or torch.float32
        pipeline = load_pipeline(self._model, lora=self._lora, device=self.device, dtype=dtype)
        if self._compiled:
            compile_blocks(denoiser(pipeline))
        return pipeline


def identity(model: str, file: str) -> dict[str, str]:
    """What a model is, wherever it lies: the hash of a local file or folder, the revision of one on the hub.

    Args:
        file: one that a hub repository of this kind holds; asking for it tells the revision.

    Raises:
        UserError: it is neither here nor on the hub.
    """
    if Path(model).exists():
        return {"sha256": content_hash(model)}
    kind = "LoRA" if file == _LORA else "model"
    _find(kind, model)
    from huggingface_hub import hf_hub_download

    try:
        return {"revision": Path(hf_hub_download(model, file)).parent.name}
    except Exception as error:  # the hub client raises many kinds: offline, no such repository, no access
        why = shorten(str(error), 160, placeholder=" ...")
        raise UserError(f"{kind} {model!r}: neither a folder here nor given by the hub ({why})") from None


def _find(kind: str, model: str) -> str:
    path = Path(model)
    if path.exists():
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        if kind == "LoRA" and not any(file.suffix in (".safetensors", ".bin") for file in files):
            raise UserError(f"LoRA {model!r}: no weights in it; a LoRA is a folder with {_LORA}, or one file")
        return f"{_short(model)}, local, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB"
    if model in _LANGUAGE:
        raise UserError(
            f"{kind} {model!r}: a built-in language model, which draws no images; `shapes` is one that does"
        )
    # `runs/mine` where there is a folder `runs`: a path that was mistyped, not an owner on the hub.
    if model.count("/") != 1 or model.startswith((".", "/", "~")) or Path(model).parent.is_dir():
        raise UserError(f"{kind} {model!r}: no such file or folder, and no hub name like `owner/name`")
    return f"{model}, to be fetched from the hub"


def image_seed(seed: int, prompt_id: str, candidate: int) -> int:
    """The seed of a prompt's n-th candidate, 63 bits: no order, shard or machine changes it."""
    digest = hashlib.sha256(f"{seed}:{prompt_id}:{candidate}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def prompts_hash(prompts: Sequence[Prompt]) -> str:
    """SHA-256 of the prompts in their order, whatever file they came from."""
    return hashlib.sha256("\n".join(prompt.id for prompt in prompts).encode()).hexdigest()


def generate_folder(
    prompts: Sequence[Prompt],
    out: str | Path,
    source: ImageSource,
    seed: int,
    inputs: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Write `{index:05d}.png` for every prompt and `prompts.jsonl`; started again it makes what is missing.

    A prompt that occurs again gets another image: its occurrences are numbered like candidates.

    Raises:
        UserError: `out` holds something else or was made with other settings.
    """
    out = Path(out)
    settings = generate_settings(prompts, source.settings, seed)
    with claimed(out, "generate", settings, inputs, products=(_IMAGES, PROMPTS)) as run:
        if run.state != "complete":
            rows = _numbered(prompts, seed)
            _draw_missing(rows, out, source)
            write_bytes(out / PROMPTS, "".join(json.dumps(row) + "\n" for row in rows).encode())
            run.finish({"images": len(prompts)})
    return {"out": str(out), "images": len(prompts)}


def generate_settings(prompts: Sequence[Prompt], source: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What decides a folder of images. `source`: the settings of what makes them."""
    return {**source, "seed": seed, "prompts": {"n": len(prompts), "sha256": prompts_hash(prompts)}}


def _numbered(prompts: Sequence[Prompt], seed: int) -> list[dict[str, Any]]:
    seen: Counter[str] = Counter()
    rows = []
    for index, prompt in enumerate(prompts):
        drawn = image_seed(seed, prompt.id, seen[prompt.id])
        rows.append({"index": index, "prompt": prompt.text, "prompt_id": prompt.id, "seed": drawn})
        seen[prompt.id] += 1
    return rows


def _draw_missing(rows: Sequence[Mapping[str, Any]], out: Path, source: ImageSource) -> None:
    """Batch by batch. A batch with a missing image is drawn whole, as its make-up could move the last bit."""
    with progress("generating", len(rows)) as advance:
        for start in range(0, len(rows), source.batch_size):
            batch = rows[start : start + source.batch_size]
            paths = [out / f"{row['index']:05d}.png" for row in batch]
            if not all(path.exists() for path in paths):
                images = source([row["prompt"] for row in batch], [row["seed"] for row in batch])
                for path, image in zip(paths, images, strict=True):
                    write_bytes(path, encode_png(image))
            advance(len(batch))


def _short(model: str) -> str:
    """A local model is called by its last folder: where it lies on this machine is no part of what it is."""
    return Path(model).name if Path(model).exists() else model
