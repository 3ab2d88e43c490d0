"""imagereward.py on a small checkpoint in the published layout, against the published steps in float64."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import huggingface_hub
import pytest
import torch
from imagereward_samples import BERT_WORDS, IMAGEREWARD_SIZES, Original, published_state
from PIL import Image
from safetensors.torch import save_file
from scorer_samples import PROMPTS, SIZE, many, noise, openai_pixels, pairs
from transformers import BertTokenizer

import scorers
from scorers import ScorerError
from scorers.imagereward import ImageReward
from scorers.images import to_pixels, to_rgb

CLOSE = 1e-5
"""Of rewards with a spread of about 1: float32 through five layers against float64."""


@pytest.fixture(scope="module")
def scorer(imagereward_folder: Path) -> ImageReward:
    loaded = scorers.load("imagereward", **arguments(imagereward_folder))
    assert isinstance(loaded, ImageReward)
    return loaded


def arguments(folder: Path) -> dict[str, str]:
    return {"model": str(folder / "ImageReward.pt"), "architecture": str(folder / "tiny.json")}


def tokens(prompt: str) -> tuple[list[int], list[int]]:
    """Ids and mask of 35 tokens, spelled out: [CLS], at most 33 pieces, [SEP], padding."""
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(BERT_WORDS)})
    pieces = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(prompt))[:33]
    ids = [BERT_WORDS.index("[CLS]"), *pieces, BERT_WORDS.index("[SEP]")]
    padding = 35 - len(ids)
    return ids + [0] * padding, [1] * len(ids) + [0] * padding


def reference(prompt: str, image: Image.Image) -> float:
    return Original(published_state()).reward(openai_pixels(image), *tokens(prompt))


def test_scores_equal_the_published_steps(scorer: ImageReward) -> None:
    prompts, images = pairs()
    expected = torch.tensor([reference(*pair) for pair in zip(prompts, map(to_rgb, images), strict=True)])
    torch.testing.assert_close(scorer.score(prompts, images), expected, rtol=0, atol=CLOSE)
    assert expected.std() > 0.1  # or the test would pass for any image


def test_the_prompt_and_the_image_both_count(scorer: ImageReward) -> None:
    images = [Image.fromarray(noise(SIZE, SIZE, seed=seed)) for seed in (0, 0, 1)]
    same, other_text, other_image = scorer.score(["a red circle", "two squares", "a red circle"], images).tolist()
    assert abs(same - other_text) > 0.01
    assert abs(same - other_image) > 0.01


def test_a_batch_of_64_equals_64_of_one(scorer: ImageReward, imagereward_folder: Path) -> None:
    prompts, images = many(64)
    whole = ImageReward(**arguments(imagereward_folder), batch_size=64).score(prompts, images)
    singles = torch.cat([scorer.score([p], [i]) for p, i in zip(prompts, images, strict=True)])
    torch.testing.assert_close(whole, singles, rtol=0, atol=CLOSE)


def test_the_order_does_not_matter(scorer: ImageReward) -> None:
    prompts, images = many(40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled = scorer.score([prompts[i] for i in order], [images[i] for i in order])
    torch.testing.assert_close(shuffled, scorer.score(prompts, images)[order], rtol=0, atol=CLOSE)


def test_a_long_prompt_is_cut_as_by_the_original_and_counted(imagereward_folder: Path) -> None:
    scorer = ImageReward(**arguments(imagereward_folder))
    image = Image.fromarray(noise(SIZE, SIZE))
    long = "two red squares, " * 600
    assert len(long) > 10_000
    scores = scorer.score([long, "a red circle", long, "."], [image] * 4)
    assert float(scores[0]) == pytest.approx(reference(long, image), abs=CLOSE)
    assert float(scores[3]) == pytest.approx(reference(".", image), abs=CLOSE)
    assert scorer.truncated_prompts == 1


def test_thirty_three_pieces_are_not_cut(imagereward_folder: Path) -> None:
    scorer = ImageReward(**arguments(imagereward_folder))
    scorer.encoded(["red " * 33])
    assert scorer.truncated_prompts == 0
    scorer.encoded(["red " * 34])
    assert scorer.truncated_prompts == 1


def test_the_added_tokens_count_where_a_prompt_spells_them(scorer: ImageReward) -> None:
    row = scorer.encode(["[DEC] red [ENC]"])[0, 0].tolist()
    assert row[:5] == [2, len(BERT_WORDS), BERT_WORDS.index("red"), len(BERT_WORDS) + 1, 3]


def test_reward_equals_score_without_a_resize(scorer: ImageReward) -> None:
    images = [Image.fromarray(noise(SIZE, SIZE, seed=seed)) for seed in range(3)]
    pixels = torch.stack([to_pixels(image) for image in images])
    rewards = scorer.reward(pixels, PROMPTS[:3])
    torch.testing.assert_close(rewards, scorer.score(PROMPTS[:3], images), rtol=0, atol=CLOSE)


def test_reward_follows_score_through_a_resize(scorer: ImageReward) -> None:
    images = [Image.fromarray(64 + noise(61, 40, seed=seed) // 2) for seed in range(3)]
    pixels = torch.stack([to_pixels(image) for image in images])
    rewards = scorer.reward(pixels, PROMPTS[:3])
    torch.testing.assert_close(rewards, scorer.score(PROMPTS[:3], images), rtol=0, atol=0.1)


def test_the_gradient_of_reward_is_its_slope(scorer: ImageReward) -> None:
    pixels = (to_pixels(Image.fromarray(noise(40, 40))) * 0.5 + 0.25)[None].requires_grad_()
    scorer.reward(pixels, ["a"]).sum().backward()  # type: ignore[no-untyped-call]
    assert pixels.grad is not None
    direction, step = pixels.grad / pixels.grad.norm(), 1e-2
    with torch.no_grad():
        up, down = (scorer.reward(pixels + sign * step * direction, ["a"]) for sign in (1, -1))
    assert float((up - down) / (2 * step)) == pytest.approx(float(pixels.grad.norm()), rel=0.05)


def test_half_precision_is_close(scorer: ImageReward, imagereward_folder: Path) -> None:
    prompts, images = pairs(6)
    half = ImageReward(**arguments(imagereward_folder), dtype="bf16")
    torch.testing.assert_close(half.score(prompts, images), scorer.score(prompts, images), rtol=0, atol=0.2)


def test_scores_do_not_change_under_autocast(scorer: ImageReward) -> None:
    prompts, images = pairs(3)
    with torch.autocast("cpu", torch.bfloat16):
        inside = scorer.score(prompts, images)
    assert torch.equal(inside, scorer.score(prompts, images))


def test_a_folder_and_safetensors_hold_the_same(scorer: ImageReward, imagereward_folder: Path, tmp_path: Path) -> None:
    sizes, image = str(imagereward_folder / "tiny.json"), Image.fromarray(noise(61, 40))
    save_file(published_state(), tmp_path / "reward.safetensors")
    folder = ImageReward(str(imagereward_folder), architecture=sizes)
    file = ImageReward(str(tmp_path / "reward.safetensors"), architecture=sizes, tokenizer=str(imagereward_folder))
    for other in (folder, file):
        assert torch.equal(other.score(["a"], [image]), scorer.score(["a"], [image]))


def test_a_vocabulary_alone_is_a_tokenizer(scorer: ImageReward, imagereward_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(BERT_WORDS) + "\n")
    other = ImageReward(**arguments(imagereward_folder), tokenizer=str(tmp_path))
    assert torch.equal(other.encode(PROMPTS), scorer.encode(PROMPTS))


def test_the_contrastive_projections_may_be_left_out(imagereward_folder: Path, tmp_path: Path) -> None:
    state = {name: value for name, value in published_state().items() if "_proj." not in name}
    ImageReward(**changed(imagereward_folder, tmp_path, state))


def changed(folder: Path, target: Path, state: object) -> dict[str, str]:
    torch.save(state, target / "ImageReward.pt")
    return arguments(folder) | {"model": str(target / "ImageReward.pt"), "tokenizer": str(folder)}


WORD = "blip.text_encoder.embeddings.word_embeddings.weight"
LAST = "blip.text_encoder.encoder.layer.2.output.dense.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({LAST: None}, f"keys 1 missing, such as {LAST}"),
        ({"blip.itm_head.weight": torch.zeros(2)}, r"1 unexpected, such as blip\.itm_head\.weight"),
        ({LAST: None, "extra": torch.zeros(2)}, "1 missing, such as .*; 1 unexpected, such as extra"),
        ({WORD: torch.zeros(3, 3)}, r"1 misshapen \(text\.embeddings\.word_embeddings\.weight\)"),
        ({"blip.text_encoder.embeddings.position_ids": torch.ones(1, 40)}, "position_ids does not count from 0"),
    ],
)
def test_a_wrong_checkpoint_is_one_plain_line(
    imagereward_folder: Path, tmp_path: Path, change: dict[str, torch.Tensor | None], message: str
) -> None:
    state = {name: value for name, value in (published_state() | change).items() if value is not None}
    with pytest.raises(ScorerError, match=message) as caught:
        ImageReward(**changed(imagereward_folder, tmp_path, state))
    assert "\n" not in str(caught.value)


def test_the_published_sizes_are_the_default(imagereward_folder: Path) -> None:
    with pytest.raises(ScorerError, match="tokens with BLIP's two, the model 30524"):
        ImageReward(str(imagereward_folder))


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return open, ("harmed", "w")  # type: ignore[return-value]


def test_a_pickle_that_is_not_weights(
    imagereward_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Harmful()}, "bad.pt", pickle_module=pickle)
    with pytest.raises(ScorerError, match="more than tensors"):
        ImageReward(**arguments(imagereward_folder) | {"model": "bad.pt", "tokenizer": str(imagereward_folder)})
    assert not Path("harmed").exists()


def test_weights_that_are_no_numbers(imagereward_folder: Path, tmp_path: Path) -> None:
    state = published_state()
    state[LAST] = torch.full_like(state[LAST], float("nan"))
    scorer = ImageReward(**changed(imagereward_folder, tmp_path, state))
    with pytest.raises(ScorerError, match="imagereward gave nan for image 0"):
        scorer.score(["a"], [Image.fromarray(noise(SIZE, SIZE))])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "must hold"),
        ('{"vision": 3}', "must hold"),
        ('{"vision": {"depth": 3}}', "vision.depth = 3 is no size of this model"),
        ('{"ears": {"depth": 3}}', "ears.depth = 3 is no size of this model"),
        ('{"text": {"hidden_size": "24"}}', "text.hidden_size = '24' is no size"),
        (json.dumps(IMAGEREWARD_SIZES | {"vision": IMAGEREWARD_SIZES["vision"] | {"num_attention_heads": 5}}), "valid"),
    ],
)
def test_a_wrong_architecture_file(imagereward_folder: Path, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "wrong.json").write_text(content)
    with pytest.raises(ScorerError, match=message) as caught:
        ImageReward(**arguments(imagereward_folder) | {"architecture": str(tmp_path / "wrong.json")})
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_tokenizer(imagereward_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ScorerError, match=r"holds no tokenizer\.json or vocab\.txt"):
        ImageReward(**arguments(imagereward_folder), tokenizer=str(tmp_path))


def test_the_default_weights(imagereward_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def download(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(imagereward_folder / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    ImageReward(architecture=str(imagereward_folder / "tiny.json"))
    assert asked == [("THUDM/ImageReward", "ImageReward.pt")]


def test_loading_leaves_the_random_state_alone_and_writes_nothing(
    imagereward_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_rng_state()
    ImageReward(**arguments(imagereward_folder))
    assert torch.equal(torch.get_rng_state(), before)
    assert capfd.readouterr() == ("", "")


def test_settings(scorer: ImageReward, imagereward_folder: Path) -> None:
    assert scorer.settings == {
        "scorer": "imagereward",
        "dtype": "float32",
        "model": str(imagereward_folder / "ImageReward.pt"),
        "tokenizer": str(imagereward_folder),
        "architecture": str(imagereward_folder / "tiny.json"),
        "image_size": SIZE,
        "compile": False,
    }
    json.dumps(scorer.settings)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_scores(scorer: ImageReward, imagereward_folder: Path) -> None:
    prompts, images = pairs()
    gpu = ImageReward(**arguments(imagereward_folder), device="cuda")
    torch.testing.assert_close(gpu.score(prompts, images), scorer.score(prompts, images), rtol=0, atol=1e-4)
