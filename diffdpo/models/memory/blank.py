"""A model of some architecture that takes no memory: its tensors have shapes and no numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from diffdpo.models.memory.architectures import Architecture
from diffdpo.models.pipeline_model import PipelineModel
from diffdpo.models.protocol import Conditioning
from diffdpo.models.registry import family_of

LARGEST_FLASH_HEAD = 256


@contextmanager
def without_numbers(device: str) -> Iterator[None]:
    """Within, tensors are made without their numbers, and operations tell shapes and dtypes as on that device.

    Args:
        device: "cpu" or "cuda", which need not be there.
    """
    with FakeTensorMode(), torch.device(device):
        if device == "cuda":
            with _GpuAttention():
                yield
        else:
            yield


def blank_model(architecture: Architecture, path: str, **options: Any) -> PipelineModel:
    """A model as `registry.load_model` opens it, but for its encoders; on the meta device.

    Args:
        path: where it would come from; for messages.
        options: of `PipelineModel`.

    Raises:
        UserError: of a family that is not here.
    """
    import diffusers

    family = family_of(architecture.pipeline, path)
    name = architecture.network.get("_class_name", "UNet2DConditionModel")
    with torch.device("meta"):
        network = getattr(diffusers, name).from_config(dict(architecture.network))
    parts: dict[str, Any] = dict.fromkeys(("vae", *family.text_encoders))
    pipeline = _Parts(
        **parts,
        **{family.denoiser: network},
        scheduler=diffusers.DDIMScheduler(),  # what it predicts takes no other memory
        vae_scale_factor=architecture.pixels_per_latent,
    )
    return family(pipeline, path, device="meta", **options)


def place(network: nn.Module) -> None:
    """Within `without_numbers`: let a network of the meta device be on that device."""
    for module in network.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(_like(weight), requires_grad=weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = _like(buffer)


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)


def blank_inputs(
    model: PipelineModel, architecture: Architecture, images: int, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Conditioning]:
    """What `model.predict` takes beside a network, for some images of height and width in pixels."""
    h, w = (edge // architecture.pixels_per_latent for edge in size)
    shapes = model.conditioning_shapes(architecture.text_tokens)
    conditioning = {name: torch.zeros(images, *shape) for name, shape in shapes.items()}
    sizes = torch.zeros(images, 4, dtype=torch.int64)
    return (
        torch.zeros(images, architecture.latent_channels, h, w),
        torch.zeros(images, dtype=torch.int64),
        model.add_sizes(conditioning, sizes, (h, w)),
    )


class _Parts(SimpleNamespace):
    """In place of a pipeline, whose parts are on their device already."""

    def to(self, device: Any) -> None:
        return None


class _GpuAttention(TorchFunctionMode):
    """Attention by the kernels that a GPU takes. Asked without one, torch would say that it multiplies matrices, whose
    product of queries and keys no GPU keeps."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        return _gpu_attention(*args, **kwargs)


def _gpu_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: Any) -> Tensor:
    if torch.is_autocast_enabled("cuda"):
        query, key, value = (part.to(torch.get_autocast_dtype("cuda")) for part in (query, key, value))
    ops = torch.ops.aten
    found: tuple[Tensor, ...]
    if query.dtype != torch.float32 and attn_mask is None and query.shape[-1] <= LARGEST_FLASH_HEAD:
        found = ops._scaled_dot_product_flash_attention(query, key, value)
    else:
        found = ops._scaled_dot_product_efficient_attention(query, key, value, attn_mask, True)
    return found[0]
