"""Regional compilation: a network's repeated blocks are compiled, each kind once, and what lies between runs as it is.

That takes a fraction of the time that the whole network takes, since its blocks are many and alike.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

KINDS = 64
"""Shapes of a block, each with gradients and without, with a LoRA and without: torch compiles eight unless told so."""


def compile_blocks(network: nn.Module, backend: str = "inductor") -> None:
    """Let torch compile the blocks that diffusers names as repeated, and a UNet's residual blocks.

    They are compiled when they are first called, in minutes; `TORCHINDUCTOR_CACHE_DIR` names the folder that keeps
    them.

    """
    dynamo: Any = torch._dynamo
    dynamo.config.recompile_limit = max(dynamo.config.recompile_limit, KINDS)
    names = {*getattr(network, "_repeated_blocks", ()), "ResnetBlock2D"}
    for block in network.modules():
        if type(block).__name__ in names:
            block.compile(backend=backend)
