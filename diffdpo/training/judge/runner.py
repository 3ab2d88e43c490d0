"""From a config to a finished run folder of a judge: the judgements, the network, the recipe, the loop, the export."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from diffdpo.config import ScorerConfig, build
from diffdpo.data.judgements import Judgements, open_judgements
from diffdpo.errors import UserError
from diffdpo.models.protocol import trainable
from diffdpo.runs import content_hash
from diffdpo.training.folder import finished, lasting, read_run, run_name, without_pace, work_in, write_whole
from diffdpo.training.judge.recipe import JudgeModel, JudgeTraining
from diffdpo.training.loop import Outcome, train
from diffdpo.training.optimization import check_optimizer
from diffdpo.training.processes import new_accelerator
from diffdpo.training.splits import held_out

OpenJudge = Callable[[ScorerConfig, torch.device], JudgeModel]
"""Opens the network that a config names, on a device, unlocked as it says."""

EXPORT = "scorer"
"""Folder of the result in a run's folder."""


def run_judge(config: ScorerConfig, open_judge: OpenJudge) -> dict[str, Any]:
    """Train, or go on, or find it done. Returns what the manifest records as results.

    Raises:
        UserError: unfit judgements or output folder; besides whatever `open_judge` raises.
    """
    judgements = open_judgements(config.data.path, config.data.images)
    train_rows, held_out_rows = split_judgements(judgements, config)
    settings = judge_settings(config, judgements)
    accelerator = new_accelerator(config.training.precision)
    done = finished(Path(config.output), settings)
    if done is not None:
        return done
    check_optimizer(config.training.optimizer, accelerator.device)
    # Network and data first: a folder is only taken when nothing the user gave stands in the way.
    model = open_judge(config, accelerator.device)
    if config.training.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    recipe = JudgeTraining(
        model,
        judgements,
        train_rows,
        held_out_rows,
        weighted=config.loss.kind == "pickscore",
        workers=config.data.workers,
        device=accelerator.device,
    )

    def learn(folder: Path) -> Outcome:
        return train(
            recipe,
            config.training,
            seed=config.seed,
            run=run_name(settings),
            folder=folder,
            accelerator=accelerator,
            # Biases, gains and the logit scale, as in CLIP's and HPS v2's training.
            undecayed=[parameter for parameter in trainable(recipe.network) if parameter.ndim < 2],
        )

    def export(folder: Path, outcome: Outcome) -> dict[str, Any]:
        write_whole(folder / EXPORT, lambda place: model.export(place, outcome.weights))
        return {
            "exported": EXPORT,
            "judgements": len(train_rows),
            "held_out_judgements": len(held_out_rows),
            "figures": lasting(outcome),
        }

    try:
        return work_in(config, settings, accelerator, train=learn, export=export)
    finally:
        recipe.close()


def split_judgements(judgements: Judgements, config: ScorerConfig) -> tuple[list[int], list[int]]:
    """Rows to train on and rows to look at; all judgements of one caption fall on one side.

    Ties teach something where they are of two images and are not dropped. They are never looked at.
    """
    rows = judgements.rows
    held = held_out([row.caption for row in rows], config.data.held_out_share, config.seed)
    keep_ties = config.data.ties == "half"
    train_rows = [
        index
        for index, row in enumerate(rows)
        if not held[index] and (not row.tie or (keep_ties and row.label is not None))
    ]
    held_out_rows = [index for index, row in enumerate(rows) if held[index] and not row.tie]
    if all(rows[index].tie for index in train_rows):
        ties = sum(row.tie for row in rows)
        raise UserError(
            f"{judgements.path}: nothing to learn from: of {len(rows)} judgements {ties} are ties and "
            f"{sum(held)} are held out; give more, or a smaller data.held_out_share"
        )
    return train_rows, held_out_rows


def export_newest_judge(folder: Path, out: Path, open_judge: OpenJudge, *, dry_run: bool = False) -> tuple[Path, int]:
    """Write the weights of a run's newest checkpoint (its average, where it keeps one) to `out`.

    Returns:
        The folder, and the step the weights are from.

    Raises:
        UserError: `folder` is no training run or has no checkpoint yet, or `out` is in use.
    """
    settings, checkpoint = read_run(folder, out)
    config = build(ScorerConfig, settings)
    if not dry_run:
        open_judge(config, torch.device("cpu")).export(out, checkpoint.exported)
    return out, checkpoint.step


def judge_settings(config: ScorerConfig, judgements: Judgements) -> dict[str, Any]:
    """What decides the result of a run: the config, with the content of model and data in place of their paths."""
    settings = dataclasses.asdict(config)
    del settings["output"], settings["data"]["path"], settings["data"]["images"], settings["data"]["workers"]
    settings["training"] = without_pace(settings["training"])
    content = {name: _content(settings["model"].pop(name)) for name in ("path", "architecture", "processor")}
    settings["content"] = {**content, "data": judgements.fingerprint()}
    return settings


def _content(name: str | None) -> str | None:
    """The hash of a local file or folder; a name as it is."""
    return content_hash(name) if name is not None and Path(name).exists() else name
