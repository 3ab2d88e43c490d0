"""From a text config to a finished run folder: the data, the model, the recipe, the loop, the export."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from diffdpo.config import TEXT_METHODS, RewardLossConfig, TextConfig, TextSftConfig, build
from diffdpo.data.text.examples import examples
from diffdpo.data.text.readers import TextSource, open_text
from diffdpo.data.text.tokens import Tokens
from diffdpo.errors import UserError
from diffdpo.models.protocol import trainable, weights_of
from diffdpo.models.text.reward_model import RewardModel
from diffdpo.training.folder import finished, lasting, read_run, run_name, work_in, write_whole
from diffdpo.training.loop import Outcome, train
from diffdpo.training.optimization import check_optimizer
from diffdpo.training.processes import is_sharded, new_accelerator
from diffdpo.training.text.choice import HeldOutAnswers, best_checkpoint, held_out_prompts
from diffdpo.training.text.methods import make_recipe, open_model
from diffdpo.training.text.prepare import Prepared, prepare, say_lost
from diffdpo.training.text.recipe import TextRecipe
from diffdpo.training.text.reference import cached_reference
from diffdpo.training.text.referenced import ReferencedTextRecipe
from diffdpo.training.text.reward import RewardTraining
from diffdpo.training.text.scoring import OpenReward
from diffdpo.training.text.settings import text_settings


def run_text(config: TextConfig, open_reward: OpenReward | None = None) -> dict[str, Any]:
    """Train, or go on, or find it done. Returns what the manifest records as results.

    Args:
        open_reward: for `choose.by`.

    Raises:
        UserError: unfit data, model, reward or output folder, or a launcher that parts the weights.
    """
    if is_sharded():
        raise UserError("FSDP parts the weights of image models only; launch text recipes with DDP")
    source = open_text(config.data.path, config.data.split)
    settings = text_settings(config, source)
    accelerator = new_accelerator(config.training.precision)
    done = finished(Path(config.output), settings)
    if done is not None:
        return done
    check_optimizer(config.training.optimizer, accelerator.device)
    # Model and data first: a folder is only taken when nothing the user gave stands in the way.
    model = open_model(config, accelerator.device)
    prepared = prepare(config, source, model.tokenizer, model.context, accelerator)
    say_lost(config.data.path, prepared.count)
    if config.training.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    answers = _held_out_answers(config, source, prepared, open_reward, accelerator.device)
    recipe = make_recipe(config, model, prepared, accelerator.device, answers)
    centre = reference_answers(config, recipe, prepared)

    def tune(folder: Path) -> Outcome:
        if config.model.reference == "cached":
            _use_cached(config, settings, recipe, accelerator)
        run = run_name(settings)
        return train(recipe, config.training, seed=config.seed, run=run, folder=folder, accelerator=accelerator)

    def export(folder: Path, outcome: Outcome) -> dict[str, Any]:
        if isinstance(recipe, RewardTraining):
            _centre(recipe, outcome, centre)
        exported, weights, chosen = _export_name(config), outcome.weights, {}
        if answers is not None:
            best = best_checkpoint(folder, run_name(settings))
            weights, chosen = best.exported, {"chosen_step": best.step}
        write_whole(folder / exported, lambda place: model.export(place, weights))
        return {
            "exported": exported,
            **chosen,
            "examples": len(prepared.train_rows),
            "held_out_examples": len(prepared.held_out_rows),
            "left_out": dict(sorted(prepared.count.dropped.items())),
            "cut": prepared.count.cut,
            "figures": lasting(outcome),
        }

    return work_in(config, settings, accelerator, train=tune, export=export)


def _held_out_answers(
    config: TextConfig, source: TextSource, prepared: Prepared, open_reward: OpenReward | None, device: torch.device
) -> HeldOutAnswers | None:
    """What `choose.by` asks for; None where it asks for nothing."""
    if not isinstance(config, TextSftConfig) or config.choose.by is None:
        return None
    assert open_reward is not None, "who lets the config have it hands it in"
    asked = held_out_prompts(config.choose, source, prepared)
    return HeldOutAnswers(asked, config.choose, prepared.encoder, open_reward(config.choose.by, device), config.seed)


def reference_answers(config: TextConfig, recipe: TextRecipe, prepared: Prepared) -> list[Tokens]:
    """The answers whose mean reward becomes 0; none for other methods.

    Raises:
        UserError: `loss.centre_on` holds none.
    """
    if not isinstance(recipe, RewardTraining) or not isinstance(config.loss, RewardLossConfig):
        return []
    if config.loss.centre_on is None:
        return recipe.best_answers()
    records = open_text(config.loss.centre_on).records
    found, count = examples(records, "demonstrations", prepared.encoder, prepared.limits)
    if not found:
        raise UserError(f"loss.centre_on: {config.loss.centre_on}: no answer left ({count.told()})")
    say_lost(config.loss.centre_on, count)
    return [example.answers[0] for example in found]


def export_newest_text(folder: Path, out: Path, *, dry_run: bool = False) -> tuple[Path, int]:
    """Write the weights of a run's newest checkpoint (its average, where it keeps one) to `out`.

    Of a reward model that is not finished yet the zero of the scale is not set.

    Returns:
        The folder, and the step the weights are from.

    Raises:
        UserError: `folder` is no training run or has no checkpoint yet, or `out` is in use.
    """
    settings, checkpoint = read_run(folder, out)
    config = build(TEXT_METHODS[settings["method"]], settings)
    if not dry_run:
        model = open_model(config, torch.device("cpu"))
        if isinstance(model, RewardModel):
            _shift_as_exported(model, folder / _export_name(config))
        # A value model's weights come after the policy's.
        model.export(out, checkpoint.exported[: len(trainable(model.network))])
    return out, checkpoint.step


def _use_cached(config: TextConfig, settings: dict[str, Any], recipe: TextRecipe, accelerator: Accelerator) -> None:
    """`model.reference: cached`: before training the network is its own reference."""
    assert isinstance(recipe, ReferencedTextRecipe), "the config refuses it otherwise"
    data = {key: value for key, value in settings["data"].items() if key != "held_out_share"}
    identity = {
        **settings["content"],
        "settings": data,
        "examples": len(recipe.examples),
        "precision": config.training.precision,
        "device": accelerator.device.type,
        "dtype": str(next(recipe.network.parameters()).dtype),
        "lora": config.lora.rank > 0,
    }
    with accelerator.autocast():
        recipe.reference = cached_reference(
            cache_root(config),
            identity,
            len(recipe.examples),
            partial(recipe.compute_reference, batch_size=config.training.micro_batch),
            accelerator=accelerator,
        )


def cache_root(config: TextConfig) -> Path:
    path = Path(config.data.path)
    return Path(config.data.cache) if config.data.cache else (path if path.is_dir() else path.parent) / "cache"


def _centre(recipe: RewardTraining, outcome: Outcome, answers: list[Tokens]) -> None:
    """Shift the scale so that the mean score of the reference answers is 0 (Ouyang et al. 2022, appendix C.2)."""
    with weights_of(recipe.network, outcome.weights):
        recipe.model.shift(-recipe.mean_score(answers))


def _shift_as_exported(model: RewardModel, exported: Path) -> None:
    if exported.is_dir():
        model.shift(float(RewardModel(str(exported)).network.bias - model.network.bias))


def _export_name(config: TextConfig) -> str:
    if config.method == "reward":
        return "reward"
    return "lora" if config.lora.rank else "model"
