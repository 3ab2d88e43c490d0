"""A language model that gives a score instead of words: backbone, scalar head, and a shift of the scale's zero."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffdpo.errors import UserError
from diffdpo.models.lora import add_lora, merged_state
from diffdpo.models.protocol import weights_of
from diffdpo.models.text.loading import (
    checkpoint_activations,
    context_length,
    hidden_states,
    load_network,
    load_tokenizer,
    quiet,
    refuse_unpackable,
)

HEAD = "reward_head.safetensors"
"""Beside the backbone's files: `weight` [1, d] and `bias` [1]."""


class RewardNetwork(nn.Module):
    """Scores whole answers, or every token of them."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone
        width = int(backbone.config.get_text_config().hidden_size)
        self.head = nn.Linear(width, 1, bias=False)
        nn.init.normal_(self.head.weight, std=(width + 1) ** -0.5)  # Stiennon et al. 2020, appendix B
        self.bias: Tensor
        # No loss of differences moves it: it is set once, after training.
        self.register_buffer("bias", torch.zeros(1))

    def forward(self, ids: Tensor, mask: Tensor, placed: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """The score of each sequence, read at its last real token: [B, L], [B, L] bool -> [B] float32.

        Args:
            placed: `positions` and `last` of a `PackedBatch`, whose mask is [R, L, L]; the result is then [N].
        """
        if placed is not None:
            positions, places = placed
            return self._score(hidden_states(self.backbone, ids, mask, positions).flatten(0, 1)[places])
        last = torch.arange(ids.shape[1], device=ids.device).mul(mask).amax(1)
        rows = torch.arange(len(ids), device=ids.device)
        return self._score(hidden_states(self.backbone, ids, mask)[rows, last])

    def values(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The head at every token, [B, L] float32: what a value model gives."""
        return self._score(hidden_states(self.backbone, ids, mask))

    def _score(self, states: Tensor) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):
            scores: Tensor = self.head(states.to(self.head.weight.dtype))[..., 0] + self.bias
        return scores


class RewardModel:
    """A scoring network with its tokenizer."""

    def __init__(
        self,
        path: str,
        *,
        lora_rank: int = 0,
        lora_alpha: float = 0.0,
        device: str | torch.device = "cpu",
        frozen_dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        """Open a reward model that was exported here, or a language model, which gets a fresh head.

        Raises:
            UserError: neither is there.
        """
        from transformers import AutoModel

        backbone = load_network(AutoModel, path, frozen_dtype if lora_rank else torch.float32)
        self.path, self.lora_rank = path, lora_rank
        self.tokenizer = load_tokenizer(path)
        torch.manual_seed(seed)
        self.network = RewardNetwork(backbone)
        _load_head(self.network, Path(path) / HEAD)
        if lora_rank:
            add_lora(backbone, lora_rank, lora_alpha or lora_rank, "all-linear")
        self.network.to(device)

    @property
    def context(self) -> int | None:
        """How many tokens it was made for, where it says."""
        return context_length(self.network.backbone.config)

    def enable_gradient_checkpointing(self) -> None:
        checkpoint_activations(self.network.backbone)
        self.network.train()

    def refuse_unpackable(self) -> None:
        """Raise UserError if the network cannot take a `PackedBatch`."""
        refuse_unpackable(self.path, self.network.backbone)

    @torch.no_grad()
    def scores(self, sequences: Sequence[Sequence[int]], filler: int, batch_size: int = 32) -> list[float]:
        """The scores of whole sequences of token ids, end token included, in their order; in the weights' own
        precision, whoever asks: a score must not depend on what is being trained around it."""
        found = [0.0] * len(sequences)
        order = sorted(range(len(sequences)), key=lambda place: len(sequences[place]))
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            rows = [torch.tensor(sequences[place]) for place in places]
            ids, mask = (
                nn.utils.rnn.pad_sequence(some, batch_first=True, padding_value=value).to(self.network.bias.device)
                for some, value in ((rows, filler), ([torch.ones_like(row) for row in rows], 0))
            )
            with torch.autocast(ids.device.type, enabled=False):
                scores = self.network(ids, mask.bool()).tolist()
            for place, score in zip(places, scores, strict=True):
                found[place] = score
        return found

    def shift(self, by: float) -> None:
        """Move the zero of the scale: every score from now on is `by` higher."""
        self.network.bias += by

    def export(self, folder: Path, weights: Sequence[Tensor] | None = None) -> Path:
        """A folder that opens here; its backbone opens with `AutoModel.from_pretrained`. A LoRA is merged into it."""
        from transformers import AutoModel

        network = self.network
        with weights_of(network, weights), torch.no_grad(), quiet():
            whole = AutoModel.from_config(network.backbone.config)
            whole.load_state_dict(merged_state(network.backbone))
            whole.save_pretrained(folder)
            head = {"weight": network.head.weight, "bias": network.bias}
            save_file(
                {name: tensor.detach().float().cpu().contiguous() for name, tensor in head.items()}, folder / HEAD
            )
        self.tokenizer.save_pretrained(folder)
        return folder


def _load_head(network: RewardNetwork, path: Path) -> None:
    if not path.is_file():
        return
    try:
        state = load_file(path)
        network.head.weight.data.copy_(state["weight"])
        network.bias.copy_(state["bias"])
    except Exception as error:  # safetensors has a kind of its own, from Rust
        raise UserError(f"{path}: not the head of a reward model ({' '.join(str(error).split())[:120]})") from None
