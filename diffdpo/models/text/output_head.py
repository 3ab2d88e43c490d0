"""Log-probabilities of given tokens from hidden states, a chunk at a time: [N, V] logits never exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 1024
"""Positions whose logits are in memory together."""

Scale = Callable[[Tensor], Tensor]
"""What a family does to its logits, float32 to float32."""


def chunked_logps(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scale: Scale, chunk: int = CHUNK
) -> Tensor:
    """log softmax(scale(hidden @ weight.T + bias))[targets], in float32.

    The product runs in the hidden states' dtype, the softmax in float32. The backward pass makes each chunk's logits
    again, and adds up the weight's gradient over the chunks in float32.

    Args:
        hidden: [N, d].
        weight: [V, d]. bias: [V] or None.
        targets: [N] int64.

    Returns:
        [N] float32.
    """
    logps: Tensor = _ChunkedLogps.apply(hidden, weight, bias, targets, scale, chunk)
    return logps


def _logps(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scale: Scale) -> Tensor:
    logits = F.linear(hidden, weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype))
    logits = scale(logits.to(torch.promote_types(logits.dtype, torch.float32)))
    return logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(1)


class _ChunkedLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scale: Scale, chunk: int
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.scale, ctx.chunk = scale, chunk
        with torch.autocast(hidden.device.type, enabled=False):
            parts = [
                _logps(some, weight, bias, wanted, scale)
                for some, wanted in zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True)
            ]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets = ctx.saved_tensors
        wanted_of_head = ctx.needs_input_grad[1:3]
        # Cast once: within the loop it would be done again for each chunk.
        head = [
            None if tensor is None else tensor.detach().to(hidden.dtype).requires_grad_(wanted)
            for tensor, wanted in zip((weight, bias), wanted_of_head, strict=True)
        ]
        trained = [tensor for tensor in head if tensor is not None and tensor.requires_grad]
        sums = [torch.zeros_like(t, dtype=torch.promote_types(t.dtype, torch.float32)) for t in trained]
        own: list[Tensor] = []
        for some, wanted, gradient in zip(
            *(torch.split(t, ctx.chunk) for t in (hidden, targets, outer[0])), strict=True
        ):
            states = some.detach().requires_grad_()
            with torch.enable_grad(), torch.autocast(hidden.device.type, enabled=False):
                logps = _logps(states, head[0], head[1], wanted, ctx.scale)  # type: ignore[arg-type]
            of_states, *of_head = torch.autograd.grad(logps, [states, *trained], gradient)
            own.append(of_states)
            for total, found in zip(sums, of_head, strict=True):
                total += found
        left = iter(sums)
        gradients = [
            next(left).to(tensor.dtype) if wanted else None
            for tensor, wanted in zip((weight, bias), wanted_of_head, strict=True)
        ]
        return (torch.cat(own), *gradients, None, None, None)
