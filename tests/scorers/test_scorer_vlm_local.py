"""The judge with a local model: two tiny ones of different kinds, against probabilities written out by hand."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from scorer_samples import KINDS, noise
from vlm_samples import draw, reds, write_llava, write_qwen

import scorers
from scorers import ScorerError
from scorers.vlm import local
from scorers.vlm.judge import VLMJudge
from scorers.vlm.questions import COMPARE, RATE, choice, rating

ROOT = Path(__file__).parents[2]
WRITERS = {"llava": write_llava, "qwen": write_qwen}
IMAGES = [Image.fromarray(noise(40, 30, seed=seed)) for seed in range(4)]
COLOURS = [Image.new("RGB", (40, 30), colour) for colour in ("red", "lime", "blue", "white")]


@pytest.fixture(scope="session")
def vlm_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write(tmp_path_factory.mktemp(name)) for name, write in WRITERS.items()}


@pytest.fixture(params=list(WRITERS))
def folder(request: pytest.FixtureRequest, vlm_folders: dict[str, Path]) -> Path:
    return vlm_folders[request.param]


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))


def judge(folder: Path, **options: Any) -> VLMJudge:
    scorer = scorers.load("vlm-judge", str(folder), **options)
    assert isinstance(scorer, VLMJudge)
    return scorer


def model_of(scorer: VLMJudge) -> local.LocalModel:
    model = scorer._asker.model
    assert isinstance(model, local.LocalModel)
    return model


def written(model: local.LocalModel, question: Any, text: str) -> float:
    """The probability that the model's next tokens are `text`: one pass over everything, teacher forced."""
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part}
        for part in question.parts
    ]
    chat = [{"role": "user", "content": content}]
    inputs = model.processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    tail = model.processor.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    start = inputs["input_ids"].shape[1]
    for name, value in list(inputs.items()):
        if value.shape == (1, start):
            extra = tail if name == "input_ids" else torch.full_like(tail, int(name == "attention_mask"))
            inputs[name] = torch.cat([value, extra], 1)
    with torch.no_grad():
        logs = model.model(**inputs).logits[0].double().log_softmax(-1)
    return float(sum(logs[start - 1 + i, token] for i, token in enumerate(tail[0])).exp())


def by_hand(model: local.LocalModel, question: Any) -> dict[str, float]:
    """Each word with and without a space, minus what goes on to a longer word; scaled to 1."""
    found = {}
    for word in question.words:
        longer = [other for other in question.words if other != word and other.startswith(word)]
        found[word] = sum(
            written(model, question, space + word) - sum(written(model, question, space + other) for other in longer)
            for space in ("", " ")
        )
    return {word: value / sum(found.values()) for word, value in found.items()}


@pytest.mark.parametrize(("low", "high"), [(1, 10), (0, 9), (1, 5), (9, 12)])
def test_the_score_is_the_expected_number(folder: Path, low: int, high: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_NEGLIGIBLE", 0.0)
    scorer = judge(folder, low=low, high=high, cache=None)
    for image in IMAGES[:2]:
        probabilities = by_hand(model_of(scorer), rating(RATE, "a cat", image, low, high))
        wanted = sum(int(word) * value for word, value in probabilities.items())
        assert scorer.score(["a cat"], [image]).item() == pytest.approx(wanted, rel=1e-4)


def test_branches_that_are_left_out_move_nothing_to_speak_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = judge(folder, cache=None).score(["a"] * 4, IMAGES)
    monkeypatch.setattr(local, "_NEGLIGIBLE", 0.0)
    torch.testing.assert_close(quick, judge(folder, cache=None).score(["a"] * 4, IMAGES), atol=0.02, rtol=0)


def test_compare_is_the_more_probable_letter_in_both_orders(folder: Path) -> None:
    scorer = judge(folder, cache=None)
    draw(model_of(scorer).model, seed=15, size=0.3)
    firsts, seconds = zip(*itertools.combinations(COLOURS, 2), strict=True)

    def verdict(a: Image.Image, b: Image.Image) -> float:
        probabilities = by_hand(model_of(scorer), choice(COMPARE, "a cat", a, b))
        return {"A": 1.0, "B": 0.0, "C": 0.5}[max(probabilities, key=lambda word: probabilities[word])]

    orders = [(verdict(a, b), 1 - verdict(b, a)) for a, b in zip(firsts, seconds, strict=True)]
    wanted = [one if one == other else 0.5 for one, other in orders]
    assert scorer.compare(["a cat"] * len(firsts), firsts, seconds).tolist() == wanted
    assert scorer.compare(["a cat"] * len(firsts), seconds, firsts).tolist() == [1 - outcome for outcome in wanted]
    assert 0.5 in wanted
    assert 1.0 in wanted or folder.name.startswith("qwen")  # its random weights hear the order alone


def test_scores_lie_on_the_scale_and_see_image_and_prompt(folder: Path) -> None:
    scorer = judge(folder)
    scores = scorer.score(["a cat"] * 4, IMAGES)
    assert ((scores > 1) & (scores < 10)).all()
    assert len(set(scores.tolist())) == 4
    assert scorer.score(["two dogs"], IMAGES[:1]).item() != scores[0].item()


def test_the_same_question_has_the_same_answer(folder: Path) -> None:
    one = judge(folder, cache=None).score(["a"] * 4, IMAGES)
    two = judge(folder, cache=None).score(["a"] * 4, IMAGES[::-1])
    assert torch.equal(one, two.flip(0))


@pytest.mark.parametrize("kind", ["rgba", "small", "grey", "one-pixel-wide", "exif-rotated"])
def test_any_image_can_be_shown(folder: Path, kind: str) -> None:
    image = KINDS[kind]()
    if folder.name.startswith("qwen") and max(image.size) > 100 * min(image.size):
        pytest.skip("the model's own processor refuses it")
    assert 1 < judge(folder).score(["a"], [image]).item() < 10


def test_a_second_call_computes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = judge(folder).score(["a"] * 4, IMAGES)
    monkeypatch.setattr(local.LocalModel, "answer", None)
    assert torch.equal(judge(folder).score(["a"] * 4, IMAGES), first)


def test_other_weights_in_the_same_folder_are_asked_again(vlm_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(vlm_folders["llava"], folder)
    before = judge(folder).score(["a"], IMAGES[:1])
    model = model_of(judge(folder)).model
    model.lm_head.weight.data.mul_(2)
    model.save_pretrained(folder)
    after = judge(folder).score(["a"], IMAGES[:1])
    assert not torch.equal(before, after)
    assert torch.equal(after, judge(folder, cache=None).score(["a"], IMAGES[:1]))


def test_half_precision_is_asked_for_and_recorded(folder: Path) -> None:
    full, half = judge(folder), judge(folder, dtype="bf16")
    assert (full.settings["dtype"], half.settings["dtype"]) == ("float32", "bfloat16")
    a, b = full.score(["a"] * 4, IMAGES), half.score(["a"] * 4, IMAGES)
    assert not torch.equal(a, b)
    torch.testing.assert_close(a, b, atol=0.3, rtol=0)


def test_surrounding_autocast_changes_nothing(folder: Path) -> None:
    plain = judge(folder, cache=None).score(["a"] * 2, IMAGES[:2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(judge(folder, cache=None).score(["a"] * 2, IMAGES[:2]), plain)


def test_a_prompt_with_the_models_own_signs_is_an_error_that_names_it(vlm_folders: dict[str, Path]) -> None:
    with pytest.raises(ScorerError, match=r"image 1 \('an <image>'\): .* cannot be asked this"):
        judge(vlm_folders["llava"]).score(["a", "an <image>"], IMAGES[:2])


def test_options_may_come_from_a_file(vlm_folders: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "judge.json"
    file.write_text(json.dumps({"model": str(vlm_folders["llava"]), "high": 5, "dtype": "bf16", "cache": None}))
    scorer = scorers.load("vlm-judge", str(file))
    assert (scorer.settings["high"], scorer.settings["dtype"]) == (5, "bfloat16")
    assert scorer.score(["a"], IMAGES[:1]).item() < 5
    assert scorers.load("vlm-judge", str(file), high=7, dtype="fp32").settings["dtype"] == "float32"
    assert scorers.load("vlm-judge", str(file), high=7).settings["high"] == 7


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "are one JSON object"),
        ("{}", "vlm-judge needs model="),
        ('{"model": "m", "api_key": "sk-1"}', "has no option 'api_key'; its options: model, endpoint"),
        ('{"model": "m", "low": "1"}', "low must be a whole number, not '1'"),
        ('{"model": "m", "asks": 0}', "asks must be a whole number of at least 1, not 0"),
        ('{"model": "m", "workers": true}', "workers must be a whole number"),
        ('{"model": "m", "timeout": 0}', "timeout must be a number of seconds above 0"),
        ('{"model": "m", "low": 5, "high": 5}', "5 to 5 is no scale"),
        ('{"model": "m", "high": 500}', "1 to 500 is no scale"),
        ('{"model": "m", "question": "How good?"}', "question holds no {prompt}"),
        ('{"model": "m", "question": 5}', "question must be a text"),
        ('{"model": "m", "cache": 5}', "cache must be a folder"),
        ('{"model": "m", "api_key_env": "KEY"}', "go with endpoint="),
        ('{"model": "m", "request": {}, "endpoint": 5}', "endpoint must be a text"),
        ('{"model": "m", "request": [], "endpoint": "http://a"}', "request must be fields and values"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "judge.json").write_text(content)
    with pytest.raises(ScorerError) as caught:
        scorers.load("vlm-judge", str(tmp_path / "judge.json"))
    assert words in str(caught.value)
    assert "sk-1" not in str(caught.value)


def test_a_file_of_options_that_is_not_there() -> None:
    with pytest.raises(ScorerError, match="no such file of vlm-judge options"):
        scorers.load("vlm-judge", "nowhere/judge.json")


def test_no_model_at_all() -> None:
    with pytest.raises(ScorerError, match="vlm-judge needs model="):
        scorers.load("vlm-judge")


def broken(source: Path, folder: Path, change: str) -> Path:
    shutil.copytree(source, folder)
    if change == "config":
        (folder / "config.json").unlink()
    elif change == "template":
        (folder / "chat_template.jinja").unlink()
    elif change == "torn":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    else:
        from safetensors.torch import load_file, save_file

        state = load_file(folder / "model.safetensors")
        state.pop(sorted(state)[0])
        save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("config", "there is no model folder"),
        ("template", "has no chat template"),
        ("torn", "cannot be loaded as an image-text-to-text model"),
        ("weight", "is not whole: 1 missing weights"),
    ],
)
def test_a_model_that_is_not_whole_is_refused(
    vlm_folders: dict[str, Path], tmp_path: Path, change: str, words: str
) -> None:
    with pytest.raises(ScorerError) as caught:
        judge(broken(vlm_folders["llava"], tmp_path / "model", change))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hub_name_that_cannot_be_had() -> None:
    with pytest.raises(ScorerError, match="'nobody/nothing' cannot be loaded"):
        scorers.load("vlm-judge", "nobody/nothing")


@pytest.mark.parametrize(
    ("prompts", "images", "words"),
    [
        ("a", reds(1), "prompts is one string"),
        ([None], reds(1), "prompt 0 is NoneType"),
        (["a", "b"], reds(1), "2 prompts and 1 images"),
        (["a", "b"], [*reds(1), "b.png"], "image 1: an image must be a PIL.Image"),
    ],
)
def test_wrong_input_is_named(vlm_folders: dict[str, Path], prompts: Any, images: Any, words: str) -> None:
    scorer = judge(vlm_folders["llava"])
    with pytest.raises(ScorerError, match=words):
        scorer.score(prompts, images)
    if words.startswith("2 prompts"):
        with pytest.raises(ScorerError, match=words):
            scorer.compare(prompts, reds(1, 2), images)


def test_loading_the_registry_and_an_endpoint_s_options_import_little() -> None:
    code = (
        "import sys, scorers; scorers.names(); a = {'torch', 'httpx2', 'transformers'} & set(sys.modules); "
        "scorers.load('vlm-judge', 'm', endpoint='http://localhost/v1', cache=None); "
        "print(a, {'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set() set()"
