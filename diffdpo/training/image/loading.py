"""How exported weights are loaded, told in lines of Markdown."""

from __future__ import annotations

from diffdpo.models.export.form import Form

HERE = "PATH/TO/THIS/FOLDER"


def loading(form: Form, adapter: bool, pipeline_class: str, base: str | None) -> list[str]:
    """What to type, and where to put the file.

    Args:
        adapter: whether the weights are a LoRA by itself.
        pipeline_class: the diffusers class that the base model opens as.
        base: the base model's hub name, if it has one.
    """
    if form.kind == "diffusers":
        return _code(base if adapter else HERE, f'pipeline.load_lora_weights("{HERE}")' if adapter else None)
    if form.kind == "single-file":
        opened = f'{pipeline_class}.from_single_file("{HERE}/{form.file}", config="{HERE}/{form.name}")'
        return [
            "```python",
            f"from diffusers import {pipeline_class}",
            "",
            f"pipeline = {opened}",
            *_END,
            "",
            f"In ComfyUI put `{form.file}` into `models/checkpoints`. Only diffusers needs the folder `{form.name}`.",
        ]
    if pipeline_class == "StableDiffusion3Pipeline":
        return [f"In ComfyUI put `{form.file}` into `models/loras`. diffusers does not read this form for its family."]
    code = _code(base, f'pipeline.load_lora_weights("{HERE}", weight_name="{form.file}")')
    elsewhere = "" if pipeline_class == "FluxPipeline" else ", in A1111's web UI into `models/Lora`"
    return [*code, "", f"In ComfyUI put `{form.file}` into `models/loras`{elsewhere}."]


_END = ('image = pipeline("a red bicycle by a lake").images[0]', "```")


def _code(model: str | None, lora: str | None) -> list[str]:
    return [
        "```python",
        "from diffusers import DiffusionPipeline",
        "",
        f'pipeline = DiffusionPipeline.from_pretrained("{model or "PATH/TO/THE/BASE/MODEL"}")',
        *([lora] if lora else []),
        *_END,
    ]
