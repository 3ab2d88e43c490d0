"""Strict reading of settings."""

import re
from pathlib import Path

import pytest

from diffdpo.config import load_config
from diffdpo.errors import UserError

GOOD = """
output: runs/x
model: {path: m, reference: copy}
data: {path: d}
training: {steps: 10, batch_size: 2, learning_rate: 1e-8}
loss: {beta: 5000}
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "c.yaml"
        path.write_text(text)
        return path

    return write


def test_numbers_are_numbers_however_they_are_written(write):
    config = load_config(write(GOOD), ["loss.beta=2e3", "training.weight_decay=0", "training.ema=.99"])
    assert config.training.learning_rate == 1e-8
    assert config.loss.beta == 2000.0
    assert config.training.weight_decay == 0.0
    assert config.training.ema == 0.99


def test_overrides_reach_new_sections_and_null(write):
    config = load_config(write(GOOD), ["lora.rank=8", "model.reference=adapter", "loss.winner_safeguard=null"])
    assert (config.lora.rank, config.lora.effective_alpha, config.loss.winner_safeguard) == (8, 8.0, None)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.learning_rat=1", "unknown key 'training.learning_rat': did you mean 'training.learning_rate'?"),
        ("sede=1", "did you mean 'seed'?"),
        ("steps=1", "unknown key 'steps': did you mean 'training.steps'?"),
        ("training.steps=many", "training.steps: a whole number is wanted here, not 'many'"),
        ("training.steps=0", "training.steps: must be at least 1"),
        ("loss.kind=sigmod", "did you mean 'sigmoid'?"),
        ("loss.beta=-1", "loss.beta: must be positive"),
        ("loss.label_smoothing=0.7", "loss.label_smoothing"),
        ("loss=3", "loss: a section of keys is wanted here"),
        ("model.reference=adapter", "needs a LoRA"),
        ("method=dppo", "unknown method 'dppo': did you mean 'dpo'?"),
        ("training.precision=bf17", "training.precision"),
        ("noequals", "write section.key=value"),
        ("method=[x]", "unknown method"),
        ("training.max_grad_norm=-1", "training.max_grad_norm: must be at least 0"),
        ("data.size=0", "data.size: must be between"),
        ("seed=99999999999999", "seed: must be between"),
        ("lora.rank=4", "with a LoRA"),
    ],
)
def test_mistakes_are_named(write, override, message):
    with pytest.raises(UserError) as caught:
        load_config(write(GOOD), [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_text_overrides_are_taken_as_they_stand(write):
    config = load_config(write(GOOD), ["output=runs/a #1", "data.path=2024-01-01", "model.path=123"])
    assert (config.output, config.data.path, config.model.path) == ("runs/a #1", "2024-01-01", "123")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("- a\n- b", "and it holds a list"),
        ("", "and it is empty"),
        ("seed: 1\na: [", "line 2, column 5: not valid YAML"),
        ("\x00", "not valid YAML"),
    ],
)
def test_files_that_are_no_mapping_are_refused(write, text, why):
    with pytest.raises(UserError, match=r"c\.yaml") as caught:
        load_config(write(text))
    assert why in str(caught.value)
    assert "unicode string" not in str(caught.value)


def test_a_method_of_the_other_modality_is_told_so(write):
    with pytest.raises(UserError, match="method 'ppo' is of `modality: text`, and here it is image"):
        load_config(write(GOOD), ["method=ppo"])


def test_a_missing_key_is_named(write):
    with pytest.raises(UserError, match=r"'loss\.beta' is missing"):
        load_config(write(GOOD.replace("{beta: 5000}", "{kind: sigmoid}")))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="no such config file"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[1].glob("configs/*.yaml")), ids=lambda p: p.name)
def test_every_shipped_recipe_loads(path):
    load_config(path)


@pytest.mark.parametrize("text", ["seed: 1\noutput: o\nseed: 2\n", "loss:\n  beta: 1\n  seed: 2\n  seed: 2\n"])
def test_a_key_given_twice_is_named(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"c\.yaml: line {text.count(chr(10))}: key 'seed' is there twice"):
        load_config(tmp_path / "c.yaml")


def test_a_folder_is_no_config(tmp_path):
    with pytest.raises(UserError, match=r"a folder; a config is a \.yaml file"):
        load_config(tmp_path)


@pytest.mark.parametrize("text", [".inf", "-.inf", ".nan", "1e999", "1" + "0" * 400])
@pytest.mark.parametrize("key", ["loss.beta", "training.learning_rate", "training.weight_decay", "data.min_margin"])
def test_numbers_must_be_finite(key, text):
    with pytest.raises(UserError, match=re.escape(f"{key}: a finite number is wanted here")):
        load_config(Path("configs/shapes_dpo.yaml"), [f"{key}={text}"])


@pytest.mark.parametrize(("text", "value"), [("null", None), ("0", 0.0), ("1.5", 1.5)])
def test_clipping_can_be_switched_off(text, value):
    config = load_config(Path("configs/shapes_dpo.yaml"), [f"training.max_grad_norm={text}"])
    assert config.training.max_grad_norm == value
