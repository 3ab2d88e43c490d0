"""clipscore.py on a small CLIPModel folder, against the published steps one pair at a time."""

from __future__ import annotations

import html
import json
import shutil
from pathlib import Path

import ftfy
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scorer_samples import PROMPTS, SIZE, many, noise, openai_pixels, pairs
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, CLIPTokenizer

import scorers
from scorers import ScorerError
from scorers.clipscore import ClipScore
from scorers.images import to_pixels, to_rgb

CLOSE = 2.5e-6
"""1e-6 on the cosine, in units of the score."""


@pytest.fixture(scope="module")
def scorer(clip_folder: Path) -> ClipScore:
    loaded = scorers.load("clipscore", model=str(clip_folder))
    assert isinstance(loaded, ClipScore)
    return loaded


def reference(folder: Path, prompt: str, image: Image.Image) -> float:
    """2.5 * max(cos, 0) of numpy-normalised features, text cleaned as by OpenAI's tokenizer, without padding."""
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).double()
    text = html.unescape(html.unescape(ftfy.fix_text("A photo depicts " + prompt)))
    tokens = AutoTokenizer.from_pretrained(folder)(
        " ".join(text.split()).lower(), truncation=True, max_length=77, return_tensors="pt"
    )
    with torch.no_grad():
        seen = model.get_image_features(pixel_values=openai_pixels(image)[None].double()).pooler_output[0].numpy()
        read = model.get_text_features(input_ids=tokens["input_ids"]).pooler_output[0].numpy()
    return 2.5 * float(np.clip(seen @ read / np.linalg.norm(seen) / np.linalg.norm(read), 0, None))


def test_scores_equal_the_published_steps(scorer: ClipScore, clip_folder: Path) -> None:
    prompts, images = pairs()
    expected = torch.tensor([reference(clip_folder, *p) for p in zip(prompts, map(to_rgb, images), strict=True)])
    torch.testing.assert_close(scorer.score(prompts, images), expected, rtol=0, atol=CLOSE)
    assert expected.std() > 0.05  # or the test would pass for any image


def test_a_negative_cosine_is_zero(scorer: ClipScore) -> None:
    features = torch.tensor([[1.0, 0.0]] * 3)
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert scorer.compare(features, texts).tolist() == [2.5, 0.0, 0.0]


@pytest.fixture(scope="module")
def published_tokens(tmp_path_factory: pytest.TempPathFactory) -> ClipScore:
    """A small model with the whole vocabulary of OpenAI's CLIP, in transformers' files."""
    folder = tmp_path_factory.mktemp("vocabulary")
    bpe = open_clip.SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {names.get(piece, piece): index for piece, index in bpe.encoder.items()}
    CLIPTokenizer(vocab=vocabulary, merges=list(bpe.bpe_ranks)).save_pretrained(folder)
    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    text, vision = {**tower, "vocab_size": 49408}, {**tower, "image_size": SIZE, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    return ClipScore(str(folder))


@pytest.mark.parametrize(
    "prompt",
    [
        *PROMPTS,
        "It’s a “curly” quote…",
        "fish &amp; chips &lt;3",
        "  many \n\t spaces  ",
        "naïve café ÉCOLE ﬁne ＦＵＬＬ",
        "can't won't 3d 4k, f/1.8 --ar 16:9",
        "🙂 emoji 👩‍🚀",
        "a, b " * 2000,
    ],
)
def test_the_tokens_are_those_of_openais_tokenizer(published_tokens: ClipScore, prompt: str) -> None:
    seen: list[torch.Tensor] = []
    model = published_tokens.backbone.model
    handle = model.text_model.embeddings.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    published_tokens.encode([prompt])
    handle.remove()
    expected = open_clip.tokenize(["A photo depicts " + prompt])[0]
    length = int(expected.argmax()) + 1  # up to the end token; the padding behind it is not read
    assert seen[0][0, :length].tolist() == expected[:length].tolist()


def test_a_batch_of_64_equals_64_of_one(scorer: ClipScore, clip_folder: Path) -> None:
    prompts, images = many(64)
    whole = ClipScore(str(clip_folder), batch_size=64).score(prompts, images)
    singles = torch.cat([scorer.score([p], [i]) for p, i in zip(prompts, images, strict=True)])
    torch.testing.assert_close(whole, singles, rtol=0, atol=CLOSE)


def test_the_order_does_not_matter(scorer: ClipScore) -> None:
    prompts, images = many(40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled = scorer.score([prompts[i] for i in order], [images[i] for i in order])
    torch.testing.assert_close(shuffled, scorer.score(prompts, images)[order], rtol=0, atol=CLOSE)


def test_a_long_prompt_is_cut_and_counted(clip_folder: Path) -> None:
    scorer = ClipScore(str(clip_folder))
    images = [Image.fromarray(noise(SIZE, SIZE, seed=seed)) for seed in range(8)]
    long = "two red squares, " * 600
    assert len(long) > 10_000
    for prompt in (long, "."):
        expected = torch.tensor([reference(clip_folder, prompt, image) for image in images])
        torch.testing.assert_close(scorer.score([prompt] * 8, images), expected, rtol=0, atol=CLOSE)
        assert expected.max() > 0.05
    assert scorer.truncated_prompts == 1


def test_the_prefix_counts_for_the_length(clip_folder: Path) -> None:
    scorer = ClipScore(str(clip_folder))  # one token per letter: 75 less "a photo depicts" leave 62
    scorer.encoded(["x" * 62])
    assert scorer.truncated_prompts == 0
    scorer.encoded(["x" * 63])
    assert scorer.truncated_prompts == 1


def test_three_surplus_pixels_are_cut_as_by_torchvision(scorer: ClipScore) -> None:
    image = Image.fromarray(noise(SIZE + 3, SIZE))
    torch.testing.assert_close(scorer.prepare(image), openai_pixels(image), rtol=0, atol=1e-6)
    centre = image.crop((2, 0, SIZE + 2, SIZE))
    assert torch.equal(scorer.prepare(image), scorer.prepare(centre))


@pytest.mark.parametrize("size", [(61, 40), (37, 90), (SIZE, SIZE), (SIZE + 3, SIZE), (7, 5), (1, 5), (200, 64)])
def test_the_pixels_of_reward_are_those_of_score(scorer: ClipScore, size: tuple[int, int]) -> None:
    image = Image.fromarray(64 + noise(*size) // 2)  # away from black and white, where PIL clips between its passes
    fitted = scorer.fit(to_pixels(image)[None])[0]
    level = 1 / 255 / 0.26  # of 8 bits, after the normalisation
    assert (fitted - scorer.prepare(image)).abs().max() < 2.5 * level  # PIL rounds after each of its two passes


def test_reward_equals_score_without_a_resize(scorer: ClipScore) -> None:
    images = [Image.fromarray(noise(SIZE, SIZE, seed=seed)) for seed in range(3)]
    pixels = torch.stack([to_pixels(image) for image in images])
    rewards = scorer.reward(pixels, PROMPTS[:3])
    torch.testing.assert_close(rewards, scorer.score(PROMPTS[:3], images), rtol=0, atol=CLOSE)


def test_reward_follows_score_through_a_resize(scorer: ClipScore) -> None:
    images = [Image.fromarray(64 + noise(61, 40, seed=seed) // 2) for seed in range(3)]
    pixels = torch.stack([to_pixels(image) for image in images])
    rewards = scorer.reward(pixels, PROMPTS[:3])
    torch.testing.assert_close(rewards, scorer.score(PROMPTS[:3], images), rtol=0, atol=0.02)


def test_reward_has_a_gradient_after_score(scorer: ClipScore) -> None:
    prompts, images = many(20)
    best = int(scorer.score(prompts, images).argmax())  # above 0, where the slope is not cut off
    pixels = to_pixels(images[best])[None].requires_grad_()
    scorer.reward(pixels, [prompts[best]]).sum().backward()  # type: ignore[no-untyped-call]
    assert pixels.grad is not None
    assert pixels.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("prompts", "message"), [("abc", "one string"), (["a"], r"\[3, 3, 8, 8\] and 1"), ([None] * 3, "prompt 0 is None")]
)
def test_reward_refuses_what_score_refuses(scorer: ClipScore, prompts: list[str], message: str) -> None:
    with pytest.raises(ScorerError, match=message):
        scorer.reward(torch.zeros(3, 3, 8, 8), prompts)


def changed(folder: Path, target: Path, change: str) -> str:
    """A copy of the model folder with one thing wrong."""
    shutil.copytree(folder, target)
    state = load_file(target / "model.safetensors")
    if change == "missing":
        del state["visual_projection.weight"]
    elif change == "unexpected":
        state["extra.weight"] = torch.zeros(2)
    elif change == "nan":
        state["visual_projection.weight"] *= float("nan")
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    if change == "tokenizer":
        (target / "tokenizer_config.json").unlink()
    return str(target)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "1 missing weights, such as visual_projection.weight"),
        ("unexpected", "1 unexpected weights, such as extra.weight"),
        ("tokenizer", "holds no tokenizer_config.json"),
    ],
)
def test_a_wrong_folder_is_one_plain_line(clip_folder: Path, tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(ScorerError, match=message) as caught:
        ClipScore(changed(clip_folder, tmp_path / "model", change))
    assert "\n" not in str(caught.value)


def test_weights_that_are_no_numbers(clip_folder: Path, tmp_path: Path) -> None:
    scorer = ClipScore(changed(clip_folder, tmp_path / "model", "nan"))
    with pytest.raises(ScorerError, match="clipscore gave nan for image 0"):
        scorer.score(["a"], [Image.fromarray(noise(SIZE, SIZE))])


def test_half_precision_is_close(scorer: ClipScore, clip_folder: Path) -> None:
    prompts, images = pairs(4)
    half = ClipScore(str(clip_folder), dtype="bf16")
    torch.testing.assert_close(half.score(prompts, images), scorer.score(prompts, images), rtol=0, atol=0.05)


def test_settings(scorer: ClipScore, clip_folder: Path) -> None:
    assert scorer.settings == {
        "scorer": "clipscore",
        "dtype": "float32",
        "model": str(clip_folder),
        "prefix": "A photo depicts ",
        "image_size": SIZE,
        "compile": False,
    }
    json.dumps(scorer.settings)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_scores(scorer: ClipScore, clip_folder: Path) -> None:
    prompts, images = pairs()
    gpu = ClipScore(str(clip_folder), device="cuda")
    torch.testing.assert_close(gpu.score(prompts, images), scorer.score(prompts, images), rtol=0, atol=10 * CLOSE)
