"""A tiny pipeline of random weights for every family, in diffusers' own layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)


def make(family: str, sd1: Path, out: Path) -> Path:
    """Save a tiny pipeline; `sd1` lends its tokenizer, and is itself the v-prediction sample but for one word."""
    torch.manual_seed(0)
    MAKERS[family](sd1, out)
    return out


def _sd21(sd1: Path, out: Path) -> None:
    import shutil

    shutil.copytree(sd1, out)
    config = out / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "prediction_type": "v_prediction"}))


def _sdxl(sd1: Path, out: Path) -> None:
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=32,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 12,
    )
    StableDiffusionXLPipeline(
        vae=_vae(4, scaling_factor=0.13025),
        text_encoder=CLIPTextModel(_clip(12)),
        text_encoder_2=CLIPTextModelWithProjection(_clip(20)),
        tokenizer=_tokenizer(sd1),
        tokenizer_2=_tokenizer(sd1),
        unet=unet,
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        add_watermarker=False,
    ).save_pretrained(out)


def _sd3(sd1: Path, out: Path, *, t5: bool = True) -> None:
    transformer = SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=24,
        out_channels=4,
        pos_embed_max_size=8,
    )
    first = CLIPTextModelWithProjection(_clip(12))
    torch.nn.init.eye_(first.text_projection.weight)  # the original has no projection there
    StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(4, scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=first,
        text_encoder_2=CLIPTextModelWithProjection(_clip(20)),
        text_encoder_3=_t5() if t5 else None,
        tokenizer=_tokenizer(sd1),
        tokenizer_2=_tokenizer(sd1),
        tokenizer_3=_t5_tokenizer() if t5 else None,
    ).save_pretrained(out)


def _sd3_without_t5(sd1: Path, out: Path) -> None:
    _sd3(sd1, out, t5=False)


def _flux(sd1: Path, out: Path, *, guidance: bool = True) -> None:
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 6, 6),
        guidance_embeds=guidance,
    )
    FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(4, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=CLIPTextModel(_clip()),
        text_encoder_2=_t5(),
        tokenizer=_tokenizer(sd1),
        tokenizer_2=_t5_tokenizer(),
    ).save_pretrained(out)


def _flux_schnell(sd1: Path, out: Path) -> None:
    _flux(sd1, out, guidance=False)


MAKERS: dict[str, Any] = {
    "sd21": _sd21,
    "sdxl": _sdxl,
    "sd3": _sd3,
    "sd3-without-t5": _sd3_without_t5,
    "flux": _flux,
    "flux-schnell": _flux_schnell,
}


def _tokenizer(sd1: Path) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(sd1 / "tokenizer")


def _clip(width: int = 16) -> CLIPTextConfig:
    """Two encoders of one model are told apart by their widths in a single file, so they must differ."""
    return CLIPTextConfig(
        vocab_size=54,
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=12,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def _t5() -> T5EncoderModel:
    return T5EncoderModel(T5Config(vocab_size=32, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2))


def _t5_tokenizer() -> T5Tokenizer:
    pieces = ["<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz"]
    return T5Tokenizer(vocab=[(piece, -float(rank)) for rank, piece in enumerate(pieces)], extra_ids=0)


def _vae(channels: int, **factors: float) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=channels,
        sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        **factors,
    )
