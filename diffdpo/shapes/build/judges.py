"""Two tiny judges of pictures, one in PickScore's layout and one in HPSv2's, trained on preference pairs.

A pair is a caption with a careful picture of it and a worse one: damaged, or a careful picture of another caption. Both
losses are cross-entropies over the two scores; beside them runs CLIP's own contrastive loss, with captions that are
easily confused, since here no CLIP was trained before. The two judges see other pictures, other captions in another
order and other first weights, so that one can label and the other can judge.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

from diffdpo.fit import Schedule, fit
from diffdpo.shapes.build.captions import confusable, tokenize
from diffdpo.shapes.build.pictures import draw_scene
from diffdpo.shapes.build.tokenizer import MAX_LENGTH, new_tokenizer
from diffdpo.shapes.damage import ALL, damage, wrong_relation, wrong_shape
from diffdpo.shapes.render import SIZE, Pixels, render

BATCH = 64
OTHER_CAPTION_SHARE = 0.2
KINDS = (*ALL, *3 * (wrong_relation,), wrong_shape)
"""Kinds of damage as often as they are drawn: where things stand is the hardest to see, what they are comes next."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

Encode = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""Images [M, 3, 32, 32] and token ids [N, L] to normalised embeddings [M, D], [N, D] and the logit scale."""


def train_pickscore(work: Path, seed: int, steps: int) -> CLIPModel:
    """A CLIPModel, trained with PickScore's loss (Kirstain et al. 2023, sec. 3)."""
    torch.manual_seed(seed)
    model = new_clip_model()

    def encode(images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output = model(input_ids=ids, pixel_values=images)
        return output.image_embeds, output.text_embeds, model.logit_scale.exp()

    _train("pickscore", model, encode, work, seed, steps)
    return model


def train_hpsv2(work: Path, seed: int, steps: int) -> nn.Module:
    """An open_clip model, trained with HPSv2's loss (Wu et al. 2023, sec. 4)."""
    torch.manual_seed(seed)
    model = open_clip.model.CLIP(**HPS_ARCHITECTURE)

    def encode(images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        image, text = model.encode_image(images, normalize=True), model.encode_text(ids, normalize=True)
        return image, text, model.logit_scale.exp()

    _train("hpsv2", model, encode, work, seed, steps)
    trained: nn.Module = model
    return trained


HPS_ARCHITECTURE = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": SIZE, "layers": 3, "width": 96, "head_width": 24, "patch_size": 4},
    "text_cfg": {
        "context_length": MAX_LENGTH,
        "vocab_size": len(new_tokenizer()),
        "width": 96,
        "heads": 4,
        "layers": 3,
    },
}
"""In open_clip's own terms; saved as the model-config JSON beside the weights."""


VISION = {
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": SIZE,
    "patch_size": 4,
}
"""The image half of every CLIP here that is in the layout of transformers."""


def new_clip_model() -> CLIPModel:
    tokenizer = new_tokenizer()
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 96,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_LENGTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=64))


def new_processor() -> CLIPProcessor:
    size = {"height": SIZE, "width": SIZE}
    images = CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=size, image_mean=MEAN, image_std=STD)
    return CLIPProcessor(images, new_tokenizer())


def save_hpsv2(model: nn.Module, folder: Path) -> None:
    """Weights as safetensors, the architecture as open_clip writes it, and the tokenizer that it names."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "hpsv2.safetensors")
    text = {**HPS_ARCHITECTURE["text_cfg"], "hf_tokenizer_name": "tokenizer"}  # type: ignore[dict-item]
    (folder / "open_clip_config.json").write_text(json.dumps({**HPS_ARCHITECTURE, "text_cfg": text}, indent=2) + "\n")
    new_tokenizer().save_pretrained(folder / "tokenizer")


def _train(name: str, model: nn.Module, encode: Encode, work: Path, seed: int, steps: int) -> None:
    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        ids, confused, better, worse = _pairs(seed, step, BATCH, held_out=False)
        with torch.autocast("cpu", torch.bfloat16):
            images, texts, scale = encode(torch.cat([better, worse]), torch.cat([ids, confused]))
        logits = scale.float() * texts.float() @ images.float().T  # [2B, 2B]: true and confused captions, good and bad
        labels = torch.arange(BATCH)
        pair_scores = torch.stack([logits[labels, labels], logits[labels, labels + BATCH]], dim=1)
        preference = F.cross_entropy(pair_scores, torch.zeros(BATCH, dtype=torch.long))
        contrast = F.cross_entropy(logits[:BATCH], labels) + F.cross_entropy(logits[:, :BATCH].T, labels)
        accuracy = (pair_scores[:, 0] > pair_scores[:, 1]).float().mean()
        return preference + 0.5 * contrast, {"preference": preference.item(), "accuracy": accuracy.item()}

    def evaluate() -> dict[str, float]:
        figures = {}
        for held_out in (False, True):
            ids, _, better, worse = _pairs(seed + 1000, 0, 400, held_out=held_out)
            images, texts, _ = encode(torch.cat([better, worse]), ids)
            scores = torch.stack([(texts * part).sum(1) for part in images.chunk(2)])
            figures["accuracy, held out" if held_out else "accuracy"] = (scores[0] > scores[1]).float().mean().item()
        return figures

    fit(name, model, loss_at, Schedule(steps, learning_rate=1e-3, weight_decay=0.02, ema=0.995), work, evaluate)


def _pairs(seed: int, step: int, n: int, *, held_out: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Token ids [n, L], those of confusable captions, and the better and the worse pictures, [n, 3, 32, 32] each."""
    rng = np.random.default_rng([seed, 3, step])
    captions, confused, better, worse = [], [], [], []
    for _ in range(n):
        scene, other = draw_scene(rng, held_out=held_out), draw_scene(rng, held_out=held_out)
        swap = rng.random() < OTHER_CAPTION_SHARE and other not in (scene, scene.mirrored())
        captions.append(scene.caption)
        confused.append(confusable(scene, rng).caption)
        better.append(render(scene, rng))
        worse.append(render(other, rng) if swap else damage(scene, rng, KINDS))
    return tokenize(captions), tokenize(confused), normalised(better, rng), normalised(worse, rng)


def normalised(pictures: list[Pixels], rng: np.random.Generator) -> Tensor:
    """CLIP's normalisation, after a trace of noise on good and bad alike, so that no judge lives on its absence."""
    stacked = np.stack(pictures) + rng.normal(0, 0.015, (len(pictures), SIZE, SIZE, 3))
    pixels = torch.from_numpy((stacked.clip(0, 1) - MEAN) / STD).permute(0, 3, 1, 2)
    return pixels.float()
