"""A LoRA added to its base: W + alpha / r * up @ down, once in float32, stored in the dtype that is asked for."""

from __future__ import annotations

import pytest
import torch
from adapted import ALPHA, RANK, predict

from diffdpo.errors import UserError
from diffdpo.models.export.form import Form
from diffdpo.models.lora import adapters, base_state, merged_state
from diffdpo.models.protocol import trainable
from diffdpo.models.registry import load_model
from diffdpo.models.sampling import load_pipeline


@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3", "flux"])
def test_the_merged_model_predicts_what_model_and_lora_do(family, checkpoint, with_lora, tmp_path):
    model = with_lora(family)
    merged = load_model(str(model.export(tmp_path / "out", form=Form(merge=True))))
    torch.testing.assert_close(predict(merged), predict(model), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(predict(merged), predict(load_model(str(checkpoint(family)))), atol=1e-3)


def test_each_weight_is_the_formula_and_no_other_is_touched(with_lora):
    network = with_lora("sd1").network
    before, after, found = base_state(network), merged_state(network), adapters(network)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        expected = tensor.double()
        if name.removesuffix(".weight") in found:
            down, up = found[name.removesuffix(".weight")]
            expected = expected + ALPHA / RANK * up.double() @ down.double()
        torch.testing.assert_close(after[name].double(), expected, rtol=1e-6, atol=1e-6)


def test_half_precision_comes_after_the_sum(with_lora, tmp_path):
    model = with_lora("sd1")
    model.export(tmp_path / "out", form=Form("single-file", merge=True, dtype="fp16", name="mine"))
    stored = load_pipeline(str(tmp_path / "out" / "mine.safetensors"), dtype=torch.float16).unet.state_dict()
    for name, tensor in merged_state(model.network).items():
        assert torch.equal(stored[name], tensor.half()), name


def test_a_weight_too_large_for_fp16_is_named(checkpoint, tmp_path):
    model = load_model(str(checkpoint("sd1")))
    next(iter(trainable(model.network))).data.view(-1)[0] = 1e5
    with pytest.raises(UserError, match=r"--dtype fp16: unet has a weight above 65504 \(conv_in\.weight\)"):
        model.export(tmp_path / "out", form=Form(dtype="fp16"))


@pytest.mark.parametrize(
    ("form", "lora", "words"),
    [
        (Form(merge=True), False, "no LoRA to merge"),
        (Form("kohya"), False, "is for a LoRA"),
        (Form("kohya", merge=True), True, "a merged LoRA is a whole model"),
        (Form("single-file"), True, "add --merge"),
    ],
)
def test_forms_that_do_not_go_with_the_run_are_refused(form, lora, words):
    with pytest.raises(UserError, match=words):
        form.check(lora)
