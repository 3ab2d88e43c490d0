"""The training loop, the only one. It knows steps, processes and checkpoints; what is learnt the recipe knows."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from diffdpo.config import TrainingConfig
from diffdpo.errors import UserError
from diffdpo.models.protocol import trainable
from diffdpo.progress import progress, say
from diffdpo.training import checkpoints, optimizer_state
from diffdpo.training.alarms import Alarms
from diffdpo.training.gradient import StepGradient
from diffdpo.training.guard import (
    LONGEST_ROW,
    LONGEST_ROW_FP16,
    SKIPPED,
    Skips,
    not_finite,
    refuse_broken,
    spoil_gradient,
    step_unless,
)
from diffdpo.training.heap import freed_memory_kept
from diffdpo.training.metrics import MetricsFile, as_written, finite, note, read_metrics
from diffdpo.training.optimization import WeightAverage, learning_rate, make_optimizer, parameter_groups
from diffdpo.training.order import make_order
from diffdpo.training.processes import prepare
from diffdpo.training.protocols import Announced, Bucketed, Ordered, Ordering, Recipe, Stateful, Watch
from diffdpo.training.room import Refit, refuse_full
from diffdpo.training.sharding import copy_parts, gather_anew, gathered, local, put_back, whole
from diffdpo.training.shares import check_step
from diffdpo.training.window import Window


@dataclass(frozen=True)
class Outcome:
    """What training leaves: the weights to export (the average, where one is kept), and the last figures.

    They are whole, in the main process only; a network that was parted has whole parameters there again.
    """

    weights: list[Tensor]
    figures: dict[str, float]


def train(
    recipe: Recipe,
    config: TrainingConfig,
    *,
    seed: int,
    run: str,
    folder: Path,
    accelerator: Accelerator,
    undecayed: Sequence[nn.Parameter] = (),
    watch: Watch | None = None,
    refit: Refit | None = None,
) -> Outcome:
    """Run a recipe to its last step, from the newest checkpoint if there is one.

    Steps whose loss or gradient is not finite are not taken.

    Args:
        seed: of the order of the examples.
        run: identifies settings, model and data; see `checkpoints.save`.
        folder: the run's folder; `checkpoints/` and `metrics.jsonl` are written into it.
        undecayed: trained parameters that weight decay leaves alone.
        watch: called after step 0, before the first, and after every step for which it is due.
        refit: given where micro-batches may become smaller when they do not fit into the memory, and told of it.

    Raises:
        UserError: several steps one after the other, or the weights, were not finite; or memory is full.
    """
    training = _Training(recipe, config, seed, run, folder, accelerator, undecayed, watch, refit)
    try:
        with freed_memory_kept(accelerator.device):
            return training.to_the_end()
    except RuntimeError as error:
        refuse_full(error, training.gradient.shares, config)
        raise


class _Training:
    def __init__(
        self,
        recipe: Recipe,
        config: TrainingConfig,
        seed: int,
        run: str,
        folder: Path,
        accelerator: Accelerator,
        undecayed: Sequence[nn.Parameter],
        watch: Watch | None = None,
        refit: Refit | None = None,
    ) -> None:
        self.watch = watch
        self.recipe, self.config, self.run_name, self.accelerator = recipe, config, run, accelerator
        self.checkpoints = folder / "checkpoints"
        self.metrics = MetricsFile(folder / "metrics.jsonl")
        groups = parameter_groups(trainable(recipe.network), undecayed, config.weight_decay)
        self.network, self.optimizer = prepare(accelerator, recipe.network, make_optimizer(config, groups))
        self.parameters = trainable(recipe.network)  # FSDP2 has put parted ones in place of those before
        self.average = None if config.ema is None else WeightAverage(self.parameters, config.ema)
        self.gradient = StepGradient(recipe, self.network, config, accelerator, refit)
        shares = self.gradient.shares
        buckets = recipe.buckets if isinstance(recipe, Bucketed) else None
        own = recipe.order(shares.step) if isinstance(recipe, Ordered) else None
        self.order: Ordering = own or make_order(recipe.n_examples, buckets, shares.step, shares.together, seed)
        self.figures: dict[str, float] = {}
        longest_row = LONGEST_ROW if accelerator.scaler is None else LONGEST_ROW_FP16
        self.skips = Skips(min(longest_row, config.steps))
        self.alarms = Alarms(config.steps)
        self.start = self._resume()

    def to_the_end(self) -> Outcome:
        config = self.config
        if self.start == 0:
            self._evaluate(0)
            self._look(0)
        window = Window()
        with progress("training", config.steps, self.start, shown=self.accelerator.is_main_process) as advance:
            for step in range(self.start, config.steps):
                window.add(self._step(step))
                done = step + 1
                saves = done % config.checkpoint_every == 0 or done == config.steps
                evaluates = done % config.evaluate_every == 0 or done == config.steps
                # No window reaches over a checkpoint: a run that goes on from it must write the same lines.
                if done == 1 or done % config.log_every == 0 or saves:
                    self._log(done, window)
                    window = Window()
                if evaluates:
                    self._evaluate(done)
                looks = self._look(done)
                if saves:
                    self._save(done)
                if evaluates or saves or looks:
                    window.restart_clock()
                advance(1, self._note() if self.accelerator.is_main_process else "")
        weights: Sequence[Tensor] = self.average.weights if self.average else self.parameters
        refuse_broken(weights, config.steps, self.accelerator)
        main = self.accelerator.is_main_process
        outcome = Outcome(gathered(weights, keep=main), dict(self.figures))
        put_back(self.recipe.network, keep=main)
        return outcome

    def _step(self, step: int) -> dict[str, Tensor]:
        """One optimiser step."""
        config, accelerator = self.config, self.accelerator
        rate = learning_rate(config, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        places = self.order.at(step)
        if isinstance(self.recipe, Announced):
            coming = self.gradient.mine(self.order.at(step + 1)) if step + 1 < config.steps else []
            self.recipe.announce(places, [example for micro in coming for example in micro])
        total_loss, totals = self.gradient.add_up(places)
        spoil_gradient(accelerator, total_loss, self.parameters)
        norm = whole(accelerator.clip_grad_norm_(self.parameters, config.max_grad_norm or math.inf))
        skipped = not_finite(norm)
        step_unless(skipped, self.optimizer)
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(self.parameters, step)
        return {**totals, "grad_norm": norm, "lr": torch.tensor(rate), SKIPPED: skipped}

    def _log(self, step: int, window: Window) -> None:
        means, skipped = window.means(self.accelerator)
        self.skips.count(step, skipped)
        if self.skips.total:
            means[SKIPPED] = self.skips.total
        seconds = time.monotonic() - window.began
        means["pairs_per_second"] = window.steps * self.order.batch / seconds
        self._tell(step, means)

    def _tell(self, step: int, figures: dict[str, float]) -> None:
        """Write a line, with the alarms that it raises."""
        if self.accelerator.is_main_process and figures:
            alarms = self.alarms.hear(step, as_written(figures))
            for words in alarms.values():
                say(f"alarm at step {step}: {words}")
            figures = {**figures, **{f"alarm/{name}": 1.0 for name in alarms}}
            self.metrics.write(step, figures)
        self.figures.update(finite(figures))

    def _look(self, step: int) -> bool:
        """Call `watch` if it is due. Before the checkpoint of that step, which remembers its line."""
        if self.watch is None or not self.watch.due(step):
            return False
        with self._averaged():
            figures = self.watch(step)
        self._tell(step, figures)
        return True

    def _evaluate(self, step: int) -> None:
        with self._averaged(), self.accelerator.autocast():
            figures = self.recipe.evaluate()
        self.figures.update(finite(figures))
        if self.accelerator.is_main_process and figures:
            self.metrics.write(step, figures)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Within, the network has the average of its weights, where one is kept."""
        kept = [local(p).clone() for p in self.parameters] if self.average else []
        if self.average:
            copy_parts(self.parameters, self.average.weights)
        yield
        if self.average:
            copy_parts(self.parameters, kept)
        gather_anew(self.network)

    def _save(self, done: int) -> None:
        average = self.average.weights if self.average else []
        refuse_broken([*self.parameters, *average], done, self.accelerator)
        scaler, optimizer = self.accelerator.scaler, self.optimizer.optimizer
        checkpoints.save(
            self.checkpoints,
            done,
            run=self.run_name,
            tensors={
                "weights": checkpoints.numbered(self.parameters),
                "average": checkpoints.numbered(average),
                "optimizer": optimizer_state.tensors_of(optimizer),
            },
            state={
                "metrics_size": self.metrics.synced_size(),
                "optimizer": optimizer_state.values_of(optimizer),
                "scaler": scaler.state_dict() if scaler else None,
                "global_batch": self.order.batch,
                "figures": self.figures,
                "skipped": {"total": self.skips.total, "in_a_row": self.skips.in_a_row},
                **({"recipe": self.recipe.state()} if isinstance(self.recipe, Stateful) else {}),
            },
            keep=self.config.keep_checkpoints,
            accelerator=self.accelerator,
        )

    def _resume(self) -> int:
        checkpoint = checkpoints.newest(self.checkpoints, self.run_name)
        if len(set(gather_object([checkpoint.step if checkpoint else 0]))) > 1:
            raise UserError(f"{self.checkpoints}: not the same in all processes; use a disk that all machines share")
        if checkpoint is None:
            if self.accelerator.is_main_process:
                self.metrics.cut(0)
                if checkpoints.any_left(self.checkpoints):
                    say("no whole checkpoint is left: training starts anew from the first step")
            return 0
        check_step(self.checkpoints, checkpoint.state["global_batch"], self.order.batch)
        self._take(checkpoint)
        if self.accelerator.is_main_process:
            self.metrics.cut(checkpoint.state["metrics_size"])
            for row in read_metrics(self.metrics.path):
                self.alarms.hear(row["step"], row)
            say(f"going on from step {checkpoint.step}")
        return checkpoint.step

    def _take(self, checkpoint: checkpoints.Checkpoint) -> None:
        state, tensors = checkpoint.state, checkpoint.tensors
        self.figures = dict(state["figures"])
        self.skips = Skips(self.skips.longest_row, **state.get("skipped", {}))
        for name, parameter in checkpoints.numbered(self.parameters).items():
            tensors["weights"].read_into(parameter, name)
        for name, average in checkpoints.numbered(self.average.weights if self.average else []).items():
            tensors["average"].read_into(average, name)
        optimizer_state.restore(self.optimizer.optimizer, tensors["optimizer"], state.get("optimizer", {}))
        if isinstance(self.recipe, Stateful):
            self.recipe.restore(state["recipe"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _note(self) -> str:
        return note(self.figures)
