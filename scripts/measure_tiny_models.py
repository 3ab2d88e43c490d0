"""Measure the tiny models that ship with the package: the figures of docs/micro_world.md and docs/text_world.md.

    python scripts/measure_tiny_models.py

Some minutes on a CPU; --captions takes fewer pictures, --worlds only one of the worlds.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

BATCH = 48
JUDGES = ("shapes-pickscore", "shapes-hpsv2")
SEED = 4_000_000
WORLDS = ("shapes", "words")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the shipped tiny models.")
    parser.add_argument("--captions", type=int, default=320, metavar="N", help="held-out captions (default: 320)")
    parser.add_argument("--candidates", type=int, default=6, metavar="K", help="pictures per caption (default: 6)")
    parser.add_argument("--scenes", type=int, default=300, metavar="N", help="scenes per kind of damage (default: 300)")
    parser.add_argument("--prompts", type=int, default=64, metavar="N", help="held-out prompts (default: 64)")
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=WORLDS, help="measure just these")
    args = parser.parse_args()
    measures: list[Iterator[str]] = []
    if "shapes" in args.worlds:
        measures += [autoencoder(), judges(args.scenes), generator(args.captions, args.candidates)]
    if "words" in args.worlds:
        measures += [language_model(args.prompts, answers=16)]
    for line in itertools.chain(*measures):
        print(line, flush=True)


def autoencoder() -> Iterator[str]:
    import torch
    from diffusers import AutoencoderKL

    from diffdpo.shapes.build.autoencoder import reconstruction_accuracy
    from diffdpo.shapes.weights import GENERATOR

    vae = AutoencoderKL.from_pretrained(GENERATOR / "vae").float().eval()
    with torch.inference_mode():
        yield f"reconstructions that pass the exact checker: {reconstruction_accuracy(vae):.1%}"


def judges(n: int) -> Iterator[str]:
    """How often a judge prefers a careful picture of a held-out caption to one damaged in a given way."""
    import scorers
    from diffdpo.shapes.build.pictures import draw_scene
    from diffdpo.shapes.damage import ALL
    from diffdpo.shapes.render import render, to_image

    loaded = {name: scorers.load(name) for name in JUDGES}
    for kind in ALL:
        rng = np.random.default_rng(SEED)
        scenes = [draw_scene(rng, held_out=True) for _ in range(n)]
        captions = [scene.caption for scene in scenes]
        careful = [to_image(render(scene, rng)) for scene in scenes]
        flawed = [to_image(kind(scene, rng)) for scene in scenes]
        told = {
            name: (judge.score(captions, careful) > judge.score(captions, flawed)).float().mean().item()
            for name, judge in loaded.items()
        }
        yield f"{kind.__name__:18}" + "  ".join(f"{name} {share:.1%}" for name, share in told.items())


def generator(n_captions: int, n_candidates: int) -> Iterator[str]:
    """How many pictures are right: all, each judge's pick of a caption's candidates, any of them."""
    import scorers
    from diffdpo.benchmarks.suites.shapes import held_out_captions
    from diffdpo.shapes.checker import check
    from diffdpo.shapes.weights import GUIDANCE, STEPS

    captions = [caption for caption in held_out_captions()[:n_captions] for _ in range(n_candidates)]
    images = draw(captions, STEPS, GUIDANCE)
    exact = np.array([check(image, caption).exact for image, caption in zip(images, captions, strict=True)])
    exact = exact.reshape(-1, n_candidates)
    yield f"{len(exact)} held-out captions, {n_candidates} pictures each, {STEPS} steps, guidance {GUIDANCE}"
    yield f"all parts right: {exact.mean():.1%} of all, in {exact.any(axis=1).mean():.1%} of the captions at least one"
    for name in JUDGES:
        picks = scorers.load(name).score(captions, images).numpy().reshape(-1, n_candidates).argmax(axis=1)
        yield f"the pick of {name}: {exact[np.arange(len(exact)), picks].mean():.1%}"


def language_model(n_prompts: int, answers: int) -> Iterator[str]:
    """Perplexities, and what the model's own answers to held-out prompts are worth."""
    import random

    from transformers import AutoModelForCausalLM, AutoTokenizer

    from diffdpo.words.build.language_model import held_out, perplexity
    from diffdpo.words.reading import read
    from diffdpo.words.review import all_prompts
    from diffdpo.words.reward import reward
    from diffdpo.words.weights import LANGUAGE_MODEL

    model, tokenizer = (kind.from_pretrained(LANGUAGE_MODEL) for kind in (AutoModelForCausalLM, AutoTokenizer))
    for source in ("general", "reviews"):
        yield f"held-out perplexity, {source}: {perplexity(model.eval(), tokenizer, held_out(source)):.2f}"
    prompts = random.Random(SEED).sample([str(prompt) for prompt in all_prompts(held_out=True)], n_prompts)
    texts, ended = sample_texts(model, tokenizer, [prompt for prompt in prompts for _ in range(answers)])
    values = np.array([reward(text) for text in texts]).reshape(n_prompts, answers)
    yield f"{n_prompts} held-out prompts, {answers} answers each, temperature 1"
    yield f"ended: {ended:.1%}; wholly understood: {np.mean([read(text).understood for text in texts]):.1%}"
    within = np.sqrt(values.var(axis=1).mean())
    yield f"reward: mean {values.mean():.2f}, standard deviation {values.std():.2f}, within a prompt {within:.2f}"
    for n in (4, 16):
        yield f"the best of {n}: {values.reshape(-1, n).max(axis=1).mean():.2f}"
    for text in texts[: 20 * answers : answers]:
        yield f"{reward(text):6.2f}  {text}"


def sample_texts(model: Any, tokenizer: Any, prompts: Sequence[str]) -> tuple[list[str], float]:
    """Prompts with an answer drawn from the model, and the share of answers that came to an end."""
    import torch

    torch.manual_seed(SEED)
    texts, ended = [], 0
    for start in range(0, len(prompts), 4 * BATCH):
        part = tokenizer(prompts[start : start + 4 * BATCH], return_tensors="pt", padding=True, padding_side="left")
        ids = model.generate(**part, do_sample=True, top_k=0, top_p=1.0, temperature=1.0, max_new_tokens=112)
        texts += tokenizer.batch_decode(ids, skip_special_tokens=True)
        ended += (ids == tokenizer.eos_token_id).any(dim=1).sum().item()
    return texts, ended / len(prompts)


def draw(captions: Sequence[str], steps: int, guidance: float) -> list[Image]:
    from diffdpo.models.sampling import Sampling, generate, load_pipeline
    from diffdpo.progress import progress
    from diffdpo.shapes.weights import GENERATOR

    pipeline, images = load_pipeline(str(GENERATOR)), []
    with progress("drawing", len(captions)) as advance:
        for start in range(0, len(captions), BATCH):
            part = list(captions[start : start + BATCH])
            seeds = list(range(SEED + start, SEED + start + len(part)))
            images += generate(pipeline, part, seeds, Sampling(steps=steps, guidance=guidance))
            advance(len(part))
    return images


if __name__ == "__main__":
    main()
