"""One file in the key layout of the original Stable Diffusion code, opened with the configs that lie beside it."""

from __future__ import annotations

import re
import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from diffdpo.errors import UserError
from diffdpo.models.registry import load_model

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "down_blocks.1.attentions.0": "input_blocks.3.1",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.attentions.0": "output_blocks.0.1",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.attentions.1": "output_blocks.1.1",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
"""Of the tiny model: two levels of one layer each."""
VAE = [
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    (r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2"),
    (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.0\.", "up.1."),
    (r"up_blocks\.1\.", "up.0."),
    (r"(up\.\d)\.resnets", r"\1.block"),
    (r"(up\.\d)\.upsamplers\.0", r"\1.upsample"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"conv_norm_out", "norm_out"),
]


def unet_name(name: str) -> str:
    start = max((key for key in UNET if name.startswith(f"{key}.")), key=len)
    inner = name.removeprefix(f"{start}.")
    if "resnets" in start:
        layer, _, kind = inner.rpartition(".")
        inner = f"{RESNET[layer]}.{kind}"
    return f"model.diffusion_model.{UNET[start]}.{inner}"


def vae_name(name: str) -> str:
    for pattern, there in VAE:
        name = re.sub(pattern, there, name)
    return f"first_stage_model.{name}"


def original_layout(folder):
    unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    text = load_file(folder / "text_encoder" / "model.safetensors")
    state = {unet_name(name): tensor for name, tensor in unet.items()}
    for name, tensor in vae.items():
        convolution = "attentions" in name and tensor.dim() == 2  # 1 x 1 there, linear here
        state[vae_name(name)] = tensor[:, :, None, None].contiguous() if convolution else tensor
    # Newer releases of transformers leave this wrapper out.
    within = "cond_stage_model.transformer.text_model."
    return state | {within + name.removeprefix("text_model."): tensor for name, tensor in text.items()}


@pytest.fixture(scope="module")
def file(tiny_model, tmp_path_factory):
    """`my.safetensors` and, beside it, `my/` with configs and tokenizer and no weights."""
    place = tmp_path_factory.mktemp("single")
    save_file(original_layout(tiny_model), place / "my.safetensors")
    shutil.copytree(tiny_model, place / "my", ignore=shutil.ignore_patterns("*.safetensors"))
    return place / "my.safetensors"


@torch.no_grad()
def test_original_layout_opens_as_the_model_it_was(file, tiny_model):
    ours, theirs = load_model(str(file)), StableDiffusionPipeline.from_pretrained(tiny_model)
    for part in ("unet", "vae", "text_encoder"):
        a, b = (getattr(pipeline, part).state_dict() for pipeline in (ours.pipeline, theirs))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a), part
    x_t, timesteps, given = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), ours.encode_prompts(["a cat", ""])
    expected = theirs.unet(x_t, timesteps, given["prompt_embeds"]).sample
    torch.testing.assert_close(ours.predict(ours.network, x_t, timesteps, given), expected)


def test_full_model_of_a_file_is_exported_as_a_folder(file, tmp_path):
    exported = StableDiffusionPipeline.from_pretrained(load_model(str(file)).export(tmp_path / "model"))
    assert exported.tokenizer is not None


def test_file_without_a_part_is_named(tiny_model, file, tmp_path):
    state = {name: tensor for name, tensor in load_file(file).items() if not name.startswith("first_stage_model")}
    save_file(state, tmp_path / "my.safetensors")
    shutil.copytree(file.with_suffix(""), tmp_path / "my")
    with pytest.raises(UserError, match=r"my\.safetensors.*cannot be opened as a whole checkpoint"):
        load_model(str(tmp_path / "my.safetensors"))


def test_other_file_without_configs_is_named(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "odd.safetensors")
    with pytest.raises(UserError, match=r"odd\.safetensors.*put a folder with the configs"):
        load_model(str(tmp_path / "odd.safetensors"))
