"""The tokenizer of the text world: byte-level BPE as in GPT-2, learned from texts of the training side.

Own arithmetic finds the merges: the order in which the library's trainer finds equally frequent pairs differs from run
to run, and a model that goes on training under another order reads other words.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from diffdpo.words.corpus import draw_texts

SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
"""Ids 0, 1 and 2."""
LONGEST = 256
"""Tokens of a text; the longest of the world takes about half."""
N_TEXTS = 8000
N_MERGES = 2000
"""At most; merging ends when every word is one token."""


def new_tokenizer() -> PreTrainedTokenizerFast:
    """Ids: pad, start, end, the 256 bytes, the merges. A text gets a start token and no end token, as in Llama."""
    merges = learn_merges(word_counts(draw_texts(N_TEXTS, seed=0)), N_MERGES)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*SPECIAL.values(), *letters, *dict.fromkeys(a + b for a, b in merges)]
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    start = SPECIAL["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", pair=f"{start} $A $B", special_tokens=[(start, vocab[start])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=LONGEST,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        **SPECIAL,
    )


def word_counts(texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs, with the space before it, spelled in GPT-2's letters for bytes."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    return Counter(word for text in texts for word, _ in split(text))


def learn_merges(counts: Counter[str], n: int) -> list[tuple[str, str]]:
    """Byte-pair encoding (Sennrich et al. 2016, algorithm 1); the first by alphabet of equally frequent pairs."""
    words = {word: list(word) for word in counts}
    pairs: Counter[tuple[str, str]] = Counter()
    for word, parts in words.items():
        _count(pairs, parts, counts[word])
    merges: list[tuple[str, str]] = []
    while len(merges) < n and (most := max(pairs.values(), default=0)):
        best = min(pair for pair, count in pairs.items() if count == most)
        merges.append(best)
        for word, parts in words.items():
            if best in itertools.pairwise(parts):
                _count(pairs, parts, -counts[word])
                _merge(parts, best)
                _count(pairs, parts, counts[word])
    return merges


def _count(pairs: Counter[tuple[str, str]], parts: list[str], weight: int) -> None:
    for pair in itertools.pairwise(parts):
        pairs[pair] += weight


def _merge(parts: list[str], pair: tuple[str, str]) -> None:
    """Join every occurrence of the pair, from the left, in place."""
    index = 0
    while index < len(parts) - 1:
        if (parts[index], parts[index + 1]) == pair:
            parts[index : index + 2] = [pair[0] + pair[1]]
        index += 1
