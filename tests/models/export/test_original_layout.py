"""Whole models in one file: opened again by diffusers, bit for bit, and names held against the true architectures."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from diffusers.loaders import single_file_utils as theirs
from safetensors import safe_open

from diffdpo.errors import UserError
from diffdpo.models.export.denoisers import flux_state, sd3_state, unet_state
from diffdpo.models.export.form import Form
from diffdpo.models.export.layout import stacked
from diffdpo.models.export.single_file import whole_state
from diffdpo.models.export.text import open_clip
from diffdpo.models.export.unet import vae_layout
from diffdpo.models.protocol import trainable
from diffdpo.models.registry import load_model
from diffdpo.models.sampling import load_pipeline

ONE = Form("single-file", name="mine")


def networks(pipeline):
    return {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}


def assert_equal_bits(found, wanted):
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert torch.equal(found[name], wanted[name]), name


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sd3", "sd3-without-t5"])
def test_diffusers_opens_it_with_the_same_bits(family, checkpoint, tmp_path):
    model = load_model(str(checkpoint(family)))
    for parameter in trainable(model.network):
        parameter.data += 0.01 * torch.randn_like(parameter)
    model.export(tmp_path / "out", form=ONE)
    again = load_pipeline(str(tmp_path / "out" / "mine.safetensors"), own_scheduler=True)
    assert networks(again).keys() == networks(model.pipeline).keys()
    for name, network in networks(model.pipeline).items():
        assert_equal_bits(getattr(again, name).state_dict(), network.state_dict())
    assert again.scheduler.config == load_pipeline(str(checkpoint(family)), own_scheduler=True).scheduler.config


def test_all_of_flux_but_its_transformer_opens_with_the_same_bits(checkpoint, tmp_path):
    """diffusers reads the transformer at its true width only: see below."""
    model = load_model(str(checkpoint("flux")))
    file = model.export(tmp_path / "out", form=ONE) / "mine.safetensors"
    given = {"config": str(file.with_suffix("")), "transformer": model.network, "torch_dtype": torch.float32}
    again = FluxPipeline.from_single_file(str(file), **given)
    for name in ("vae", "text_encoder", "text_encoder_2"):
        assert_equal_bits(getattr(again, name).state_dict(), getattr(model.pipeline, name).state_dict())


@pytest.mark.parametrize("guidance", [True, False])
def test_flux_transformer_at_its_true_width(guidance):
    with torch.device("meta"):
        network = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=guidance)
    # The heights are true, the other sides small.
    state = {name: torch.randn(len(tensor), *[2] * (tensor.ndim - 1)) for name, tensor in network.state_dict().items()}
    assert_equal_bits(theirs.convert_flux_transformer_checkpoint_to_diffusers(flux_state(state)), state)


def test_sd35_medium_with_its_second_attentions():
    network = SD3Transformer2DModel(
        sample_size=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=24,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    state = network.state_dict()
    assert_equal_bits(theirs.convert_sd3_transformer_checkpoint_to_diffusers(sd3_state(state)), state)


SD15 = {"cross_attention_dim": 768}
SDXL = {
    "cross_attention_dim": 2048,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


@pytest.mark.parametrize(
    ("config", "known"),
    [
        (SD15, "output_blocks.11.0.skip_connection.weight"),
        (SDXL, "input_blocks.8.1.transformer_blocks.9.attn2.to_k.weight"),
    ],
    ids=["sd15", "sdxl"],
)
def test_unets_of_the_true_architecture(config, known):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    state = unet_state(unet)
    assert known in state
    there = {f"model.diffusion_model.{key}": tensor for key, tensor in state.items()}
    back = theirs.convert_ldm_unet_checkpoint(there, dict(unet.config))
    assert {name: tensor.shape for name, tensor in back.items()} == {n: t.shape for n, t in unet.state_dict().items()}


def test_autoencoder_of_four_blocks():
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 8, 8),
        norm_num_groups=2,
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    there = stacked(vae.state_dict(), vae_layout(4))
    assert {"decoder.up.0.block.2.conv1.weight", "encoder.down.2.block.0.nin_shortcut.bias"} <= there.keys()
    back = theirs.convert_ldm_vae_checkpoint({f"first_stage_model.{k}": v for k, v in there.items()}, dict(vae.config))
    assert_equal_bits(back, vae.state_dict())


def test_the_names_that_tell_the_families_apart(checkpoint):
    first = {family: set(whole_state(load_pipeline(str(checkpoint(family))))) for family in ("sd1", "sd2", "sdxl")}
    assert "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight" in first["sd1"]
    assert "cond_stage_model.model.positional_embedding" in first["sd2"]
    assert "conditioner.embedders.1.model.transformer.resblocks.1.mlp.c_proj.bias" in first["sdxl"]
    assert "conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight" in first["sdxl"]


@pytest.mark.parametrize(("prediction", "marked"), [("v_prediction", True), ("epsilon", False)])
def test_sdxl_that_predicts_v_says_so(checkpoint, prediction, marked):
    pipeline = load_pipeline(str(checkpoint("sdxl")), own_scheduler=True)
    pipeline.scheduler.register_to_config(prediction_type=prediction)
    assert ("v_pred" in whole_state(pipeline)) is marked


def test_the_header_names_the_architecture(checkpoint, tmp_path):
    load_model(str(checkpoint("sd2"))).export(tmp_path / "out", form=ONE)
    with safe_open(tmp_path / "out" / "mine.safetensors", "pt") as file:
        header = file.metadata()
    spec = {"architecture": "stable-diffusion-v2-768-v", "prediction_type": "v", "resolution": "16x16", "title": "mine"}
    assert {f"modelspec.{name}": value for name, value in spec.items()}.items() <= header.items()


def test_what_the_layout_has_no_place_for_is_refused(checkpoint):
    with pytest.raises(UserError, match=r"encoder\.layers\.0\.adapter\.weight.*--format diffusers"):
        open_clip("text_model.encoder.layers.0.adapter.weight")
    pipeline = load_pipeline(str(checkpoint("sd3")), own_scheduler=True)
    pipeline.text_encoder.text_projection.weight.data[0, 1] = 1
    with pytest.raises(UserError, match="not the identity"):
        whole_state(pipeline)
