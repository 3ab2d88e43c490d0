"""The LoRA file for ComfyUI and A1111: applied by hand, and opened by diffusers."""

from __future__ import annotations

import re

import pytest
import torch
from adapted import ALPHA, RANK, predict
from diffusers import DiffusionPipeline, FluxPipeline
from safetensors import safe_open
from safetensors.torch import load_file

from diffdpo.models.export.form import Form
from diffdpo.models.export.kohya import kohya_state, lora_state
from diffdpo.models.export.transformers import FLUX
from diffdpo.models.lora import add_lora
from diffdpo.models.protocol import trainable
from diffdpo.models.registry import load_model

KOHYA = Form("kohya", name="mine")

# The tiny SDXL has two blocks each way, of one resnet down and two up, and attention in the lower ones.
SDXL_BLOCKS = {
    "input_blocks_3_1": "down_blocks.1.attentions.0",
    "middle_block_1": "mid_block.attentions.0",
    "output_blocks_0_1": "up_blocks.0.attentions.0",
    "output_blocks_1_1": "up_blocks.0.attentions.1",
}
QKV = ("to_q", "to_k", "to_v")
ADDED = ("add_q_proj", "add_k_proj", "add_v_proj")
SD3_LAYERS = {
    "x_block_attn_qkv": [f"attn.{name}" for name in QKV],
    "x_block_attn_proj": ["attn.to_out.0"],
    "context_block_attn_qkv": [f"attn.{name}" for name in ADDED],
    "context_block_attn_proj": ["attn.to_add_out"],
}
FLUX_LAYERS = {
    "img_attn_qkv": [f"attn.{name}" for name in QKV],
    "img_attn_proj": ["attn.to_out.0"],
    "txt_attn_qkv": [f"attn.{name}" for name in ADDED],
    "txt_attn_proj": ["attn.to_add_out"],
    "linear1": [*(f"attn.{name}" for name in QKV), "proj_mlp"],
}


def layers_of(family, name):
    """The layers of diffusers' network that a name in the file stands for, in the order they are stacked."""
    name = name.removeprefix("lora_unet_")
    if family in ("sd1", "sd2", "sdxl"):
        block, _, inner = name.partition("_transformer_blocks_")
        # Block and number stay as they are where the names are diffusers' own.
        block = SDXL_BLOCKS[block] if family == "sdxl" else re.sub(r"_(attentions|\d)", r".\1", block)
        number, attention, layer = re.fullmatch(r"(\d)_(attn\d)_(to_q|to_k|to_v|to_out_0)", inner).groups()
        return [f"{block}.transformer_blocks.{number}.{attention}.{layer.replace('_0', '.0')}"]
    kind, number, inner = re.fullmatch(r"(joint|double|single)_blocks_(\d)_(.+)", name).groups()
    there = "single_transformer_blocks" if kind == "single" else "transformer_blocks"
    table = SD3_LAYERS if kind == "joint" else FLUX_LAYERS
    return [f"{there}.{number}.{layer}" for layer in table[inner]]


def changes(family, state, weights):
    """W + alpha / r * up @ down in float64 by layer, from the file alone."""
    found = {}
    for name in {key.split(".")[0] for key in state}:
        down, up = (state[f"{name}.lora_{side}.weight"].double() for side in ("down", "up"))
        change = state[f"{name}.alpha"].item() / len(down) * up @ down
        layers = layers_of(family, name)
        parts = change.split([len(weights[f"{layer}.weight"]) for layer in layers])
        for layer, part in zip(layers, parts, strict=True):
            found[f"{layer}.weight"] = weights[f"{layer}.weight"].double() + part
    return found


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sd3", "flux"])
def test_applied_by_hand_it_is_what_diffusers_makes_of_its_own_form(family, checkpoint, with_lora, tmp_path):
    model = with_lora(family)
    model.export(tmp_path / "kohya", form=KOHYA)
    pipeline = DiffusionPipeline.from_pretrained(checkpoint(family))
    network = getattr(pipeline, model.denoiser)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    pipeline.load_lora_weights(model.export(tmp_path / "diffusers"))
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    after = network.state_dict()
    by_hand = changes(family, load_file(tmp_path / "kohya" / "mine.safetensors"), before)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in by_hand if not torch.equal(by_hand[name], before[name].double())}
    for name in moved:
        torch.testing.assert_close(after[name].double(), by_hand[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_diffusers_opens_it_and_predicts_the_same(family, checkpoint, with_lora, tmp_path):
    model = with_lora(family)
    other = load_model(str(checkpoint(family)))
    assert not torch.allclose(predict(model), predict(other), atol=1e-3)
    other.pipeline.load_lora_weights(model.export(tmp_path / "out", form=KOHYA))
    torch.testing.assert_close(predict(other), predict(model), rtol=1e-5, atol=1e-5)


def test_diffusers_reads_flux_at_its_true_width():
    """Its reader knows no other width than 3072; only the width of the input is small here."""
    torch.manual_seed(0)
    double, single = "transformer_blocks.0.attn", "single_transformer_blocks.0"
    rows = {f"{double}.{name}": 3072 for name in (*QKV, *ADDED, "to_out.0", "to_add_out")}
    rows |= {f"{single}.attn.{name}": 3072 for name in QKV}
    found = {layer: (torch.randn(RANK, 2), torch.randn(3072, RANK)) for layer in rows}
    state = kohya_state(found, {**rows, f"{single}.proj_mlp": 12288}, FLUX, ALPHA / RANK)
    read = FluxPipeline.lora_state_dict(state)
    for layer, (down, up) in found.items():
        there = read[f"transformer.{layer}.lora_B.weight"] @ read[f"transformer.{layer}.lora_A.weight"]
        torch.testing.assert_close(there, ALPHA / RANK * up @ down)
    assert not read[f"transformer.{single}.proj_mlp.lora_B.weight"].any()


def test_convolutions_are_kohyas_too(checkpoint):
    network = load_model(str(checkpoint("sd1"))).network
    add_lora(network, RANK, ALPHA, ["conv1"])
    for parameter in trainable(network):
        parameter.data = torch.randn_like(parameter)
    state = lora_state(network, original_names=False)
    x = torch.randn(1, 8, 4, 4)
    layer = network.down_blocks[0].resnets[0].conv1
    name = "lora_unet_down_blocks_0_resnets_0_conv1"
    down, up, alpha = (state[f"{name}.{kind}"] for kind in ("lora_down.weight", "lora_up.weight", "alpha"))
    inside = torch.nn.functional.conv2d(x, down, padding=1)
    expected = layer.base_layer(x) + alpha / RANK * torch.nn.functional.conv2d(inside, up)
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


def test_the_header_says_what_other_programs_ask_for(with_lora, tmp_path):
    with_lora("sdxl").export(tmp_path / "out", form=KOHYA)
    with safe_open(tmp_path / "out" / "mine.safetensors", "pt") as file:
        header = file.metadata()
    wanted = {
        "ss_network_dim": "3",
        "ss_network_alpha": "5",
        "ss_network_module": "networks.lora",
        "ss_base_model_version": "sdxl_base_v1-0",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.prediction_type": "epsilon",
        "modelspec.title": "mine",
    }
    assert wanted.items() <= header.items()


def test_equal_loras_give_equal_bytes_and_the_dtype_is_kept(with_lora, tmp_path):
    model = with_lora("sd1")
    once, again = (model.export(tmp_path / name, form=KOHYA) / "mine.safetensors" for name in "ab")
    assert once.read_bytes() == again.read_bytes()
    model.export(tmp_path / "half", form=Form("kohya", dtype="bf16", name="mine"))
    half = load_file(tmp_path / "half" / "mine.safetensors")
    for key, tensor in load_file(once).items():
        assert torch.equal(half[key], tensor if key.endswith("alpha") else tensor.bfloat16())
