"""What the vlm-judge tests share: a chat-completions server over real HTTP, and two tiny vision-language models."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import chat_samples
import numpy as np
import torch
from chat_samples import ChatServer, Reply, says
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode


def shown(request: dict[str, Any]) -> list[np.ndarray]:
    """The pixels of the images of a request's first message, in order, decoded from what was sent."""
    parts = request["messages"][0]["content"]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    files = [io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))) for url in urls]
    return [np.asarray(Image.open(file)) for file in files]


def brightness(request: dict[str, Any]) -> Reply:
    """A judge that likes bright images: a tenth of the red level, or the brighter of two."""
    levels = [int(pixels[..., 0].mean()) for pixels in shown(request)]
    if len(levels) == 1:
        return says(f"Score: {levels[0] / 10}/10")
    return says("C" if levels[0] == levels[1] else "A" if levels[0] > levels[1] else "B")


@contextmanager
def chat_server() -> Iterator[ChatServer]:
    """A server that answers by `brightness`."""
    with chat_samples.chat_server() as server:
        server.respond = brightness
        yield server


def reds(*levels: int) -> list[Image.Image]:
    """Flat images with these red levels."""
    return [Image.new("RGB", (8, 8), (level, 0, 0)) for level in levels]


TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def _tokenizer(special: Sequence[str]) -> tuple[PreTrainedTokenizerFast, dict[str, int]]:
    """Bytes and the special tokens, so `10` is `1` and then `0`; and the ids."""
    characters = list(bytes_to_unicode().values())
    vocabulary = {piece: index for index, piece in enumerate([*characters, "<pad>", "<end>", *special])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", additional_special_tokens=list(special)
    )
    return fast, vocabulary


def _text_config(vocabulary: dict[str, int]) -> dict[str, Any]:
    return {
        "vocab_size": len(vocabulary),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "pad_token_id": vocabulary["<pad>"],
        "eos_token_id": vocabulary["<end>"],
        "bos_token_id": None,
    }


def draw(model: torch.nn.Module, seed: int, size: float) -> None:
    """Random weights, large enough that different images get clearly different answers."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 or "class_embedding" in name:
            parameter.data.normal_(0, size, generator=generator)


def _save(model: Any, processor: Any, folder: Path) -> Path:
    draw(model, seed=1, size=0.15)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_llava(folder: Path) -> Path:
    """LLaVA: a CLIP tower, images of one size, a Llama."""
    tokenizer, ids = _tokenizer(["<image>"])
    square = {"height": 32, "width": 32}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=square),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**tower, image_size=32, patch_size=8),
        text_config=LlamaConfig(**_text_config(ids)),
        image_token_index=ids["<image>"],
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    return _save(LlavaForConditionalGeneration(config), processor, folder)


def write_qwen(folder: Path) -> Path:
    """Qwen2-VL: images of any size, positions in three dimensions, a second kind of row for each token."""
    tokenizer, ids = _tokenizer(["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"])
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=56 * 56),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    )
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    config = Qwen2VLConfig(
        vision_config={"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2},
        text_config={**_text_config(ids), "rope_parameters": rope},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    return _save(Qwen2VLForConditionalGeneration(config), processor, folder)
