"""Trains the tiny language model of the text world and writes it as a plain transformers folder."""

from __future__ import annotations

import json
import math
import random
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from diffdpo.fit import Schedule, fit
from diffdpo.progress import say
from diffdpo.words.build.tokenizer import LONGEST, new_tokenizer
from diffdpo.words.corpus import draw_text, draw_texts

SEEDS = {"words_lm": 0}
STEPS = {"words_lm": 600}

BATCH = 64
POOL = 4
"""Batches drawn together and sorted by length, so that little of a batch is padding."""
WIDTH = 128


def build_words_lm(out: Path, work: Path) -> None:
    """Train the model and write it to `out`/lm.

    Args:
        work: folder of resumable state; a build that was stopped goes on from it.
    """
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = new_tokenizer()
    model = train_language_model(tokenizer, work, SEEDS["words_lm"], STEPS["words_lm"])
    save(model, tokenizer, out / "lm")
    for source in ("reviews", "general"):
        say(f"words_lm: held-out perplexity on {source}: {perplexity(model, tokenizer, held_out(source)):.2f}")


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=LONGEST,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.05,
    )
    return LlamaForCausalLM(config)


def train_language_model(
    tokenizer: PreTrainedTokenizerFast,
    work: Path,
    seed: int,
    steps: int,
    *,
    batch: int = BATCH,
    save_every: int = 200,
) -> LlamaForCausalLM:
    """Next-token prediction on whole texts of the training side, each between a start and an end token."""
    torch.manual_seed(seed)
    model = new_model(tokenizer)

    @lru_cache(maxsize=1)
    def pool(index: int) -> list[Tensor]:
        texts = [draw_text(random.Random(f"pool {seed} {index} {i}")) for i in range(POOL * batch)]
        ordered = sorted(texts, key=lambda text: len(tokenizer(text).input_ids))
        parts = [encode(tokenizer, ordered[start : start + batch]) for start in range(0, len(ordered), batch)]
        random.Random(f"order {seed} {index}").shuffle(parts)
        return parts

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        with torch.autocast("cpu", torch.bfloat16):
            return token_errors(model, pool(step // POOL)[step % POOL]).mean(), {}

    def evaluate() -> dict[str, float]:
        return {source: perplexity(model, tokenizer, held_out(source, 200)) for source in ("reviews", "general")}

    schedule = Schedule(steps, learning_rate=3e-3, warmup=60, weight_decay=0.05, ema=0.99, save_every=save_every)
    fit("words_lm", model, loss_at, schedule, work, evaluate)
    return model


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    """Token ids with start and end, [N, L] int64, padded on the right."""
    ends = [text + tokenizer.eos_token for text in texts]
    ids: Tensor = tokenizer(ends, padding=True, return_tensors="pt").input_ids
    return ids


def token_errors(model: LlamaForCausalLM, ids: Tensor) -> Tensor:
    """Negative log-likelihoods of all tokens but the start and padding, [tokens] float32."""
    pad = model.config.pad_token_id
    labels = ids[:, 1:]
    # Padding is on the right, where no real token sees it: no mask is needed.
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
    real = labels != pad
    return F.cross_entropy(logits[real], labels[real], reduction="none")


def held_out(source: str, n: int = 500) -> list[str]:
    """Texts that no training saw, the same ones always."""
    return draw_texts(n, seed=10_000, source=source, held_out=True)


@torch.no_grad()
def perplexity(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> float:
    """exp of the mean error per token, the end token included."""
    parts = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
    errors = torch.cat([token_errors(model, encode(tokenizer, part)) for part in parts])
    return math.exp(errors.mean().item())


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Weights as float16, to be loaded as float32: half the size, and a plain load gives what a CPU can train.

    transformers takes the dtype of a plain load from the config, not from the file.
    """
    model.float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    state = {name: value.half() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
