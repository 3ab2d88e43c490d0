"""A run's newest weights, in the form that is asked for, with their card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from diffdpo.config import IMAGE_METHODS, build
from diffdpo.errors import UserError
from diffdpo.models.export.form import AS_TRAINED, Form
from diffdpo.runs import read_manifest
from diffdpo.training.folder import read_run
from diffdpo.training.image.card import Record, write_card
from diffdpo.training.image.inputs import load_model, model_content


def export_newest(
    folder: Path,
    out: Path,
    form: Form = AS_TRAINED,
    *,
    step: int | None = None,
    evaluation: Sequence[str] = (),
    dry_run: bool = False,
) -> tuple[Path, int]:
    """Write the weights of a run's newest checkpoint (its average, where it keeps one) to `out`.

    Args:
        step: take the checkpoint of this step instead.
        evaluation: what the card says of how the model was measured, lines of Markdown.

    Returns:
        The folder, and the step the weights are from.

    Raises:
        UserError: `folder` is no training run or has no checkpoint yet, `out` is in use, the run's weights cannot be
            written in that form, or a whole model is to be made of another base than the run's.
    """
    settings, checkpoint = read_run(folder, out, step)
    config = build(IMAGE_METHODS[settings["method"]], settings)
    form.check(config.lora.rank > 0)
    if form.merge or not config.lora.rank:
        check_base(folder, config.model.path)
    if not dry_run:
        model = load_model(config, torch.device("cpu"))
        model.export(out, checkpoint.exported, form)
        write_card(out, Record.read(folder, checkpoint.step), form, model.pipeline_class, form.name, evaluation)
    return out, checkpoint.step


def check_base(folder: Path, model: str) -> None:
    """Raise UserError unless what is at `model` is what the run in `folder` was tuned from."""
    there = read_manifest(folder)["settings"]["content"]["model"]
    if model_content(model) == there:
        return
    if there != model and not Path(model).exists():
        raise UserError(f"{folder}: its base model is not at {model} any more; put it back there")
    raise UserError(f"{folder}: tuned from another model than is at {model} now; put back the one of SHA-256 {there}")
