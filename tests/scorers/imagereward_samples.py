"""ImageReward in float64, written from the published layout alone: small weights, and the forward pass by hand."""

from __future__ import annotations

import math

import torch
from scorer_samples import SIZE
from torch import Tensor
from torch.nn import functional as F

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
BERT_WORDS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *("red", "circle", "two", "squares", "left", "of", "star", "long", ","),
    *_LETTERS,
    *(f"##{letter}" for letter in _LETTERS),
]

IMAGEREWARD_SIZES = {
    "vision": {
        "image_size": SIZE,
        "patch_size": 8,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
    "text": {
        "vocab_size": len(BERT_WORDS) + 2,
        "max_position_embeddings": 40,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
    },
}
VISION, TEXT = IMAGEREWARD_SIZES["vision"], IMAGEREWARD_SIZES["text"]
MLP = ((0, 1024), (2, 128), (4, 64), (6, 16), (7, 1))
"""Index and output width of the head's layers."""


def published_state() -> dict[str, Tensor]:
    """Random weights under the names of the published `ImageReward.pt`."""
    state: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(1)

    def random(name: str, *shape: int, std: float = 0.3) -> None:
        state[name] = torch.randn(shape, generator=generator) * std

    def linear(name: str, inputs: int, outputs: int, gain: float = 1.5) -> None:
        random(f"{name}.weight", outputs, inputs, std=gain / math.sqrt(inputs))
        random(f"{name}.bias", outputs)

    def norm(name: str, width: int) -> None:
        random(f"{name}.weight", width)
        state[f"{name}.weight"] += 1
        random(f"{name}.bias", width)

    width, patch, eyes = VISION["hidden_size"], VISION["patch_size"], "blip.visual_encoder"
    # These and the words' are small, so that the epsilons of the first norms count.
    random(f"{eyes}.cls_token", 1, 1, width, std=0.01)
    random(f"{eyes}.pos_embed", 1, (VISION["image_size"] // patch) ** 2 + 1, width, std=0.01)
    random(f"{eyes}.patch_embed.proj.weight", width, 3, patch, patch, std=0.001)
    random(f"{eyes}.patch_embed.proj.bias", width, std=0.01)
    for index in range(VISION["num_hidden_layers"]):
        block = f"{eyes}.blocks.{index}"
        norm(f"{block}.norm1", width)
        linear(f"{block}.attn.qkv", width, 3 * width)
        linear(f"{block}.attn.proj", width, width)
        norm(f"{block}.norm2", width)
        linear(f"{block}.mlp.fc1", width, VISION["intermediate_size"])
        linear(f"{block}.mlp.fc2", VISION["intermediate_size"], width)
    norm(f"{eyes}.norm", width)

    hidden, words = TEXT["hidden_size"], "blip.text_encoder"
    state[f"{words}.embeddings.position_ids"] = torch.arange(TEXT["max_position_embeddings"])[None]
    random(f"{words}.embeddings.word_embeddings.weight", TEXT["vocab_size"], hidden, std=0.01)
    random(f"{words}.embeddings.position_embeddings.weight", TEXT["max_position_embeddings"], hidden, std=0.01)
    norm(f"{words}.embeddings.LayerNorm", hidden)
    for index in range(TEXT["num_hidden_layers"]):
        layer = f"{words}.encoder.layer.{index}"
        for kind, source in (("attention", hidden), ("crossattention", width)):
            linear(f"{layer}.{kind}.self.query", hidden, hidden)
            linear(f"{layer}.{kind}.self.key", source, hidden)
            linear(f"{layer}.{kind}.self.value", source, hidden)
            linear(f"{layer}.{kind}.output.dense", hidden, hidden)
            norm(f"{layer}.{kind}.output.LayerNorm", hidden)
        linear(f"{layer}.intermediate.dense", hidden, TEXT["intermediate_size"])
        linear(f"{layer}.output.dense", TEXT["intermediate_size"], hidden)
        norm(f"{layer}.output.LayerNorm", hidden)

    linear("blip.vision_proj", width, 16)
    linear("blip.text_proj", hidden, 16)
    for (index, outputs), inputs in zip(MLP, (hidden, 1024, 128, 64, 16), strict=True):
        linear(f"mlp.layers.{index}", inputs, outputs, gain=1.2)
    return state


class Original:
    """The published forward pass for one image and one prompt, in float64."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = {name: value.double() for name, value in state.items()}

    def reward(self, pixels: Tensor, tokens: list[int], mask: list[int]) -> float:
        """Normalised pixels [3, S, S], 35 token ids and their mask -> the standardised reward."""
        hidden = self.text(torch.tensor(tokens), torch.tensor(mask), self.vision(pixels.double()))
        for index, _ in MLP:
            hidden = self.linear(f"mlp.layers.{index}", hidden)
        return (float(hidden[0, 0]) - 0.16717362830052426) / 1.0333394966054072

    def vision(self, pixels: Tensor) -> Tensor:
        """[3, S, S] -> [patches + 1, width]: pre-norm blocks, a last norm, epsilon 1e-6."""
        eyes = "blip.visual_encoder"
        patch = VISION["patch_size"]
        kernel = self.state[f"{eyes}.patch_embed.proj.weight"]
        rows = pixels.unfold(1, patch, patch).unfold(2, patch, patch)  # [3, rows, columns, patch, patch]
        patches = rows.permute(1, 2, 0, 3, 4).reshape(-1, 3 * patch * patch)
        embedded = patches @ kernel.reshape(len(kernel), -1).T + self.state[f"{eyes}.patch_embed.proj.bias"]
        x = torch.cat([self.state[f"{eyes}.cls_token"][0], embedded]) + self.state[f"{eyes}.pos_embed"][0]
        for index in range(VISION["num_hidden_layers"]):
            block = f"{eyes}.blocks.{index}"
            q, k, v = self.linear(f"{block}.attn.qkv", self.norm(f"{block}.norm1", x, 1e-6)).chunk(3, dim=-1)
            x = x + self.linear(f"{block}.attn.proj", attend(q, k, v, VISION["num_attention_heads"]))
            inner = F.gelu(self.linear(f"{block}.mlp.fc1", self.norm(f"{block}.norm2", x, 1e-6)))
            x = x + self.linear(f"{block}.mlp.fc2", inner)
        return self.norm(f"{eyes}.norm", x, 1e-6)

    def text(self, tokens: Tensor, mask: Tensor, seen: Tensor) -> Tensor:
        """Token ids [T], mask [T], image states [P + 1, W] -> [T, hidden]: post-norm layers, epsilon 1e-12."""
        words = "blip.text_encoder"
        x = self.state[f"{words}.embeddings.word_embeddings.weight"][tokens]
        x = x + self.state[f"{words}.embeddings.position_embeddings.weight"][: len(tokens)]
        x = self.norm(f"{words}.embeddings.LayerNorm", x, 1e-12)
        hidden_tokens = (1 - mask.double()) * -10000
        for index in range(TEXT["num_hidden_layers"]):
            layer = f"{words}.encoder.layer.{index}"
            for kind, source, bias in (("attention", x, hidden_tokens), ("crossattention", seen, None)):
                part = f"{layer}.{kind}"
                source = x if kind == "attention" else source
                q = self.linear(f"{part}.self.query", x)
                k, v = (self.linear(f"{part}.self.{name}", source) for name in ("key", "value"))
                read = self.linear(f"{part}.output.dense", attend(q, k, v, TEXT["num_attention_heads"], bias))
                x = self.norm(f"{part}.output.LayerNorm", read + x, 1e-12)
            inner = F.gelu(self.linear(f"{layer}.intermediate.dense", x))
            x = self.norm(f"{layer}.output.LayerNorm", self.linear(f"{layer}.output.dense", inner) + x, 1e-12)
        return x

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, name: str, x: Tensor, epsilon: float) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + epsilon).sqrt()
        return scaled * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """Attention of q [T, W] over k, v [U, W], head by head; `bias` [U] is added to the logits."""
    width = q.shape[1] // heads
    found = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        logits = q[:, part] @ k[:, part].T / math.sqrt(width)
        logits = logits if bias is None else logits + bias
        found.append(logits.softmax(-1) @ v[:, part])
    return torch.cat(found, dim=-1)
