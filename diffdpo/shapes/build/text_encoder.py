"""The generator's text encoder: the text half of a CLIP, trained on careful scenes and frozen from then on.

As in Stable Diffusion 1.x, whose text encoder comes from a CLIP too. One that learned from the plain denoising loss
alone was still a bag of words after 6,500 steps, see docs/micro_world.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel

from diffdpo.fit import Schedule, fit
from diffdpo.shapes.build.captions import confusable, tokenize
from diffdpo.shapes.build.judges import VISION, normalised
from diffdpo.shapes.build.pictures import draw_scene
from diffdpo.shapes.build.tokenizer import MAX_LENGTH, new_tokenizer
from diffdpo.shapes.render import render

BATCH = 64
WIDTH = 128


def new_clip() -> CLIPModel:
    tokenizer = new_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=VISION, projection_dim=64))


def train_text_encoder(work: Path, seed: int, steps: int) -> CLIPTextModel:
    """CLIP's contrastive loss (Radford et al. 2021) with a confusable caption beside every true one."""
    torch.manual_seed(seed)
    model = new_clip()

    def encode(images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        output = model(input_ids=ids, pixel_values=images)
        return output.image_embeds.float(), output.text_embeds.float()

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        pictures, ids = _batch(seed, step, BATCH, held_out=False)
        with torch.autocast("cpu", torch.bfloat16):
            images, texts = encode(pictures, ids)
        logits = model.logit_scale.exp().float() * images @ texts.T  # [B, 2B]: true captions, then the confusable ones
        labels = torch.arange(BATCH)
        # A batch may hold a caption twice; telling it from itself teaches nothing.
        again = (ids[None, :] == ids[:BATCH, None]).all(-1)
        again[labels, labels] = False
        logits = logits.masked_fill(again, -torch.inf)
        apart = (logits[labels, labels] > logits[labels, labels + BATCH]).float().mean().item()
        return F.cross_entropy(logits, labels) + F.cross_entropy(logits[:, :BATCH].T, labels), {"apart": apart}

    def evaluate() -> dict[str, float]:
        pictures, ids = _batch(seed + 1000, 0, 400, held_out=True)
        images, texts = encode(pictures, ids)
        true, confused = ((images * part).sum(1) for part in texts.chunk(2))
        return {"apart, held out": (true > confused).float().mean().item()}

    fit(
        "text_encoder",
        model,
        loss_at,
        Schedule(steps, learning_rate=1e-3, weight_decay=0.02, ema=0.995),
        work,
        evaluate,
    )
    encoder = CLIPTextModel(model.config.text_config)
    encoder.load_state_dict(model.text_model.state_dict())
    return encoder.eval().requires_grad_(False)


def _batch(seed: int, step: int, n: int, *, held_out: bool) -> tuple[Tensor, Tensor]:
    """Pictures [n, 3, 32, 32], and token ids [2n, L]: of their captions, then of confusable ones."""
    rng = np.random.default_rng([seed, 4, step])
    scenes = [draw_scene(rng, held_out=held_out) for _ in range(n)]
    pictures = normalised([render(scene, rng) for scene in scenes], rng)
    others = [confusable(scene, rng) for scene in scenes]
    return pictures, tokenize([scene.caption for scene in (*scenes, *others)])
