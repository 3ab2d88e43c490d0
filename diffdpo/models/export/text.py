"""Names of the text encoders: as transformers has them, or as open_clip has them (SD 2.x, SDXL's second one)."""

from __future__ import annotations

from diffdpo.models.export.layout import Place, Table

_OPEN_CLIP = Table(
    layers={"final_layer_norm": "ln_final", "embeddings.token_embedding": "token_embedding"},
    blocks={
        "encoder.layers": (
            "transformer.resblocks",
            {
                "layer_norm1": "ln_1",
                "layer_norm2": "ln_2",
                "mlp.fc1": "mlp.c_fc",
                "mlp.fc2": "mlp.c_proj",
                "self_attn.q_proj": "attn.in_proj|0",
                "self_attn.k_proj": "attn.in_proj|1",
                "self_attn.v_proj": "attn.in_proj|2",
                "self_attn.out_proj": "attn.out_proj",
            },
        )
    },
)
_PARAMETERS = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "text_projection.weight": "text_projection",
}


def clip(name: str) -> Place:
    """With the wrapper `text_model`, which newer releases of transformers leave out of a plain `CLIPTextModel`."""
    return Place(name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}")


def open_clip(name: str) -> Place:
    """`text_projection` is there the transpose."""
    plain = name.removeprefix("text_model.")
    if plain in _PARAMETERS:
        return Place(_PARAMETERS[plain])
    key, part = _OPEN_CLIP(plain)
    return Place(key.replace(".in_proj.", ".in_proj_"), part)


def as_it_is(name: str) -> Place:
    """T5."""
    return Place(name)
