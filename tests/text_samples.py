"""A tiny language model of random weights in the true file layout, and a byte-level tokenizer with a few merges."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

METHODS: dict[str, dict[str, Any]] = {
    "sft": {},
    "dpo": {"model__reference": "copy", "loss": {"beta": 0.1}},
    "kto": {"model__reference": "copy", "loss": {"beta": 0.1}},
    "reward": {"data__path": "rankings.jsonl"},
}
"""Settings of each text method but PPO, as `section__key`."""

CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tokenizer(*, end: bool = True, pad: bool = True, start: bool = False, chat: bool = True) -> Any:
    """Bytes, less the merges of `th` and `to`; with the special tokens asked for."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<pad>", "<s>", "</s>"]
    vocabulary = {token: number for number, token in enumerate([*special, *letters, "th", "to"])}
    made = Tokenizer(models.BPE(vocabulary, [("t", "h"), ("t", "o")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    if start:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"eos_token": "</s>"} if end else {}
    names |= {"pad_token": "<pad>"} if pad else {}
    names |= {"bos_token": "<s>"} if start else {}
    fast = PreTrainedTokenizerFast(tokenizer_object=made, **names)
    if chat:
        fast.chat_template = CHAT
    return fast


def language_model(folder: Path, family: str = "llama", *, context: int = 96, seed: int = 0, **special: bool) -> Path:
    """Write a model and its tokenizer to `folder`."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    words = tokenizer(**special)
    torch.manual_seed(seed)
    size = len(words)
    if family == "llama":
        config = LlamaConfig(
            vocab_size=size, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=context, eos_token_id=2, pad_token_id=0, bos_token_id=1,
            initializer_range=0.2,
        )  # fmt: skip
        model: Any = LlamaForCausalLM(config)
    else:
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": context, "initializer_range": 0.2}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=size, eos_token_id=2, bos_token_id=2, **sizes))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs(n: int) -> list[dict[str, Any]]:
    """Preferences of a kind that bytes can tell: the chosen answer says yes, the rejected one no."""
    topics = ("tea", "rain", "the sea", "old maps", "a song", "bread")
    return [
        {
            "prompt": f"{number}: {topics[number % 6]}?",
            "chosen": f" yes {topics[(number + 1) % 6]}",
            "rejected": f" no {topics[number % 5]}",
        }
        for number in range(n)
    ]


def rankings(n: int) -> list[dict[str, Any]]:
    """K answers, more exclamation marks being better; the last of the four ties with the first in every third."""
    rows = []
    for number in range(n):
        answers = [f" it is {'!' * marks}" for marks in (2, 0, 3, 1)]
        ranks = [2, 4, 1, 2 if number % 3 == 0 else 3]
        k = 4 if number % 2 else 3
        rows.append({"prompt": f"q{number}", "answers": answers[:k], "ranks": ranks[:k]})
    return rows


def figures(config: Any) -> list[dict[str, float]]:
    """The lines of `metrics.jsonl`, without the time that they took."""
    rows = [json.loads(line) for line in (Path(config.output) / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "pairs_per_second"} for row in rows]
