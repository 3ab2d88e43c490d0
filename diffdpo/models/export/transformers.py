"""Names of the joint transformers of Stable Diffusion 3 (Esser et al. 2024) and Flux.1 in their authors' layouts."""

from __future__ import annotations

from diffdpo.models.export.layout import Table

_SD3_ATTENTION = {
    "to_q": "qkv|0",
    "to_k": "qkv|1",
    "to_v": "qkv|2",
    "to_out.0": "proj",
    "norm_q": "ln_q",
    "norm_k": "ln_k",
}
_SD3_CONTEXT = {
    "add_q_proj": "qkv|0",
    "add_k_proj": "qkv|1",
    "add_v_proj": "qkv|2",
    "to_add_out": "proj",
    "norm_added_q": "ln_q",
    "norm_added_k": "ln_k",
}
SD3 = Table(
    layers={
        "pos_embed.proj": "x_embedder.proj",
        "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
        "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
        "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
        "context_embedder": "context_embedder",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
        "proj_out": "final_layer.linear",
    },
    blocks={
        "transformer_blocks": (
            "joint_blocks",
            {
                **{f"attn.{name}": f"x_block.attn.{there}" for name, there in _SD3_ATTENTION.items()},
                **{f"attn2.{name}": f"x_block.attn2.{there}" for name, there in _SD3_ATTENTION.items()},
                **{f"attn.{name}": f"context_block.attn.{there}" for name, there in _SD3_CONTEXT.items()},
                "norm1.linear": "x_block.adaLN_modulation.1",
                "norm1_context.linear": "context_block.adaLN_modulation.1",
                "ff.net.0.proj": "x_block.mlp.fc1",
                "ff.net.2": "x_block.mlp.fc2",
                "ff_context.net.0.proj": "context_block.mlp.fc1",
                "ff_context.net.2": "context_block.mlp.fc2",
            },
        )
    },
)
"""SD3, less its table of positions, which is no layer."""

FLUX = Table(
    layers={
        "x_embedder": "img_in",
        "context_embedder": "txt_in",
        "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
        "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
        "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
        "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
        "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
        "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
        "proj_out": "final_layer.linear",
    },
    blocks={
        "transformer_blocks": (
            "double_blocks",
            {
                "attn.to_q": "img_attn.qkv|0",
                "attn.to_k": "img_attn.qkv|1",
                "attn.to_v": "img_attn.qkv|2",
                "attn.to_out.0": "img_attn.proj",
                "attn.norm_q": "img_attn.norm.query_norm",
                "attn.norm_k": "img_attn.norm.key_norm",
                "attn.add_q_proj": "txt_attn.qkv|0",
                "attn.add_k_proj": "txt_attn.qkv|1",
                "attn.add_v_proj": "txt_attn.qkv|2",
                "attn.to_add_out": "txt_attn.proj",
                "attn.norm_added_q": "txt_attn.norm.query_norm",
                "attn.norm_added_k": "txt_attn.norm.key_norm",
                "norm1.linear": "img_mod.lin",
                "norm1_context.linear": "txt_mod.lin",
                "ff.net.0.proj": "img_mlp.0",
                "ff.net.2": "img_mlp.2",
                "ff_context.net.0.proj": "txt_mlp.0",
                "ff_context.net.2": "txt_mlp.2",
            },
        ),
        "single_transformer_blocks": (
            "single_blocks",
            {
                "attn.to_q": "linear1|0",
                "attn.to_k": "linear1|1",
                "attn.to_v": "linear1|2",
                "proj_mlp": "linear1|3",
                "proj_out": "linear2",
                "attn.norm_q": "norm.query_norm",
                "attn.norm_k": "norm.key_norm",
                "norm.linear": "modulation.lin",
            },
        ),
    },
    scales=frozenset({"attn.norm_q", "attn.norm_k", "attn.norm_added_q", "attn.norm_added_k"}),
)
