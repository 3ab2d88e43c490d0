"""Images from the network that is being trained, without a copy of it and without disturbing its training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from diffdpo.models.pipeline_model import PipelineModel
from diffdpo.models.protocol import Conditioning
from diffdpo.models.sampling import Sampling, check_fits, draw


class LiveSampler:
    """Draws the same prompts with the same seeds whenever it is asked, as `sampling.generate` would from an export.

    The prompts are encoded when it is made, so make it before `forget_encoders`. Of the encoders the autoencoder is
    kept, in main memory between the draws.

    Args:
        seeds: of each prompt's image.
        autocast: what the network runs in while it is trained.

    Raises:
        UserError: the model cannot draw in that size or in so many steps.
    """

    def __init__(
        self,
        model: PipelineModel,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampling: Sampling,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        check_fits(model.pipeline, sampling)
        self.model, self.seeds, self.sampling, self.autocast = model, list(seeds), sampling, autocast
        self._text = [_on_cpu(model.encode_prompts([prompt])) for prompt in prompts]
        self._empty = _on_cpu(model.encode_prompts([""]))
        self._decoder = model.pipeline.vae

    def __call__(self) -> list[Image.Image]:
        """One image for each prompt, in order, by the weights that are in the network now."""
        network = self.model.network
        device = next(network.parameters()).device
        rng = torch.random.fork_rng([device] if device.type == "cuda" else [])
        with rng, self._decoding(device), _wrapped(network, "forward", self._as_trained):
            return draw(self.model.pipeline, self._inputs, self.seeds, self.sampling)

    def _inputs(self, part: slice) -> dict[str, Tensor]:
        """What a pipeline takes in place of prompts, in the network's dtype: its latents get the same."""
        given, weight = self._text[part], next(self.model.network.parameters())
        inputs = {name: torch.cat([one[name] for one in given]) for name in self._empty}
        if self.model.guided_by_empty_prompt:
            inputs |= {f"negative_{name}": torch.cat([value] * len(given)) for name, value in self._empty.items()}
        return {name: value.to(weight) for name, value in inputs.items()}

    @contextmanager
    def _decoding(self, device: torch.device) -> Iterator[None]:
        """Within, the pipeline has its autoencoder, on its device and in float32."""
        pipeline = self.model.pipeline
        before, pipeline.vae = pipeline.vae, self._decoder.to(device)
        try:
            with _wrapped(self._decoder, "decode", _in_float32):
                yield
        finally:
            pipeline.vae = before
            if before is None:
                self._decoder.to("cpu")

    def _as_trained(self, forward: Callable[..., Any]) -> Callable[..., tuple[Tensor, ...]]:
        def call(*args: Any, **keywords: Any) -> tuple[Tensor, ...]:
            with self.autocast():
                # Guidance is a difference of two predictions, which half precision would blur.
                return tuple(part.float() for part in forward(*args, **keywords))

        return call


def _in_float32(decode: Callable[..., Any]) -> Callable[..., Any]:
    return lambda latents, *args, **keywords: decode(latents.float(), *args, **keywords)


@contextmanager
def _wrapped(owner: Any, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Within, the method of that name is what `wrap` makes of it."""
    own = owner.__dict__.get(name)  # accelerate puts its own `forward` there
    setattr(owner, name, wrap(getattr(owner, name)))
    try:
        yield
    finally:
        delattr(owner, name) if own is None else setattr(owner, name, own)


def _on_cpu(conditioning: Conditioning) -> Conditioning:
    return {name: value.cpu() for name, value in conditioning.items()}
