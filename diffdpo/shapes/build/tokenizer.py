"""A CLIPTokenizer for the micro world: byte-level BPE in CLIP's own layout, with the grammar's words as merges."""

from __future__ import annotations

import json
from functools import cache

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from diffdpo.shapes.scene import all_scenes

MAX_LENGTH = 16
"""Tokens per caption, start and end included; the longest caption of the grammar takes 14."""


@cache
def new_tokenizer() -> CLIPTokenizer:
    """Ids as in CLIP: the 256 bytes, the bytes that end a word, the merges, start, end. Padding is the end token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = _merges()
    tokens = letters + [letter + "</w>" for letter in letters] + [a + b for a, b in merges]
    vocab = {token: index for index, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_LENGTH)


def _merges() -> list[tuple[str, str]]:
    """Byte-pair merges learnt from all the words of the grammar, each seen equally often."""
    words = sorted({word for scene in all_scenes() for word in scene.caption.split()})
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(vocab_size=2000, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator([" ".join(words)] * 10, trainer)
    return [(a, b) for a, b in json.loads(tokenizer.to_str())["model"]["merges"]]
