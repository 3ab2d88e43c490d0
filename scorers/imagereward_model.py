"""ImageReward's network built from transformers' BLIP, and the names of its weights in the published file.

Source: the `ImageReward` and BLIP code of github.com/THUDM/ImageReward. Its BERT is BLIP's: no token types,
cross attention to the image in every layer, both directions visible, no pooler.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel
from transformers.initialization import no_init_weights

from scorers.aesthetic import RatingMLP
from scorers.errors import ScorerError, first_line
from scorers.weights import load_strict

PUBLISHED = {
    "vision": {
        "image_size": 224,
        "patch_size": 16,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    },
    "text": {
        "vocab_size": 30524,
        "max_position_embeddings": 512,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
    },
}
"""ViT-L/16 and BERT base with two added tokens: what the file does not say itself."""

_NAMES = (
    (r"^vision\.embeddings\.class_embedding", "blip.visual_encoder.cls_token"),
    (r"^vision\.embeddings\.position_embedding", "blip.visual_encoder.pos_embed"),
    (r"^vision\.embeddings\.patch_embedding", "blip.visual_encoder.patch_embed.proj"),
    (r"^vision\.encoder\.layers\.", "blip.visual_encoder.blocks."),
    (r"^vision\.post_layernorm", "blip.visual_encoder.norm"),
    (r"\.self_attn\.qkv\.", ".attn.qkv."),
    (r"\.self_attn\.projection\.", ".attn.proj."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    (r"^text\.", "blip.text_encoder."),
    (r"^head\.", "mlp."),
)
"""From the names of this module's weights to those of the published file."""

POSITIONS = "blip.text_encoder.embeddings.position_ids"
"""A constant, 0, 1, 2, ..., which old versions of transformers saved with the weights."""

UNREAD = {POSITIONS, *(f"blip.{tower}_proj.{kind}" for tower in ("vision", "text") for kind in ("weight", "bias"))}
"""In the published file and in no score: that constant and the projections of BLIP's contrastive loss."""


class Network(nn.Module):
    """Vision tower, text tower with cross attention, and the head on the text's first token."""

    def __init__(self, vision: dict[str, int], text: dict[str, int]) -> None:
        super().__init__()
        # 1e-6: the original's ViT. The default of the configuration is 1e-5.
        self.vision = BlipVisionModel(BlipVisionConfig(**vision, layer_norm_eps=1e-6))
        # `is_decoder` adds the cross attention; the forward pass below stays bidirectional.
        width = vision["hidden_size"]
        special = {"bos_token_id": None, "eos_token_id": None, "sep_token_id": None}  # for generation, not read here
        config = BlipTextConfig(**text, **special, encoder_hidden_size=width, is_decoder=True, layer_norm_eps=1e-12)
        self.text = BlipTextModel(config, add_pooling_layer=False)
        self.head = RatingMLP(text["hidden_size"])

    def see(self, pixels: Tensor) -> Tensor:
        """Prepared pixels [B, 3, S, S] -> one state per patch and one for the image, [B, P + 1, W]."""
        states: Tensor = self.vision(pixel_values=pixels).last_hidden_state
        return states

    def judge(self, states: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Image states [B, P + 1, W], token ids and mask [B, T] int64 -> raw rewards [B], the head in float32."""
        read = self.text(input_ids=tokens, attention_mask=mask, encoder_hidden_states=states).last_hidden_state
        reward: Tensor = self.head(read[:, 0].float())
        return reward.squeeze(-1)


def read_architecture(path: str | None) -> dict[str, dict[str, int]]:
    """The published sizes, or with those changed that a JSON file `{"vision": {..}, "text": {..}}` gives."""
    given: Any = {}
    if path is not None:
        try:
            given = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ScorerError(f"architecture file {path} cannot be read as JSON: {first_line(error)}") from error
    if not isinstance(given, dict) or not all(isinstance(part, dict) for part in given.values()):
        raise ScorerError(f'architecture file {path} must hold {{"vision": {{...}}, "text": {{...}}}}')
    sizes = [(part, key, size) for part, changes in given.items() for key, size in changes.items()]
    for part, key, size in sizes:
        if key not in PUBLISHED.get(part, {}) or not isinstance(size, int):
            known = "; ".join(f"{part}: {', '.join(keys)}" for part, keys in PUBLISHED.items())
            raise ScorerError(f"architecture file {path}: {part}.{key} = {size!r} is no size of this model ({known})")
    return {part: default | given.get(part, {}) for part, default in PUBLISHED.items()}


def build(architecture: dict[str, dict[str, int]], state: dict[str, Tensor], what: str) -> Network:
    """The network with the weights `state` of the published layout; every key must be known and none missing."""
    try:
        # Every weight comes from the file: random ones would take most of a minute.
        with torch.random.fork_rng(devices=[]), no_init_weights():
            network = Network(**architecture)
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise ScorerError(f"{what}: the architecture is not valid: {first_line(error)}") from error
    hint = "Is architecture= that of the file?"
    load_strict(network, _renamed(network, state, what, hint), what, hint)
    return network.eval().requires_grad_(False)


def published_name(name: str) -> str:
    """`vision.encoder.layers.0.self_attn.qkv.weight` -> `blip.visual_encoder.blocks.0.attn.qkv.weight`."""
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _renamed(network: Network, state: dict[str, Tensor], what: str, hint: str) -> dict[str, Tensor]:
    names = {published_name(name): name for name in network.state_dict()}
    wrong = {
        "missing": [name for name in names if name not in state],
        "unexpected": [key for key in state if key not in names and key not in UNREAD],
    }
    found = "; ".join(f"{len(keys)} {kind}, such as {keys[0]}" for kind, keys in wrong.items() if keys)
    if found:
        raise ScorerError(f"{what} is no ImageReward checkpoint: keys {found}. {hint}")
    positions = state.get(POSITIONS)
    if positions is not None and not torch.equal(positions.flatten(), torch.arange(positions.numel())):
        raise ScorerError(f"{what} is no ImageReward checkpoint: {POSITIONS} does not count from 0")
    return {ours: state[name] for name, ours in names.items()}
