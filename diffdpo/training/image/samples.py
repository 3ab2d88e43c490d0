"""From the `samples` section of a config to the grids that the training loop has drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from accelerate import Accelerator

from diffdpo.config import ImageConfig
from diffdpo.data.prompts import read_prompts
from diffdpo.errors import UserError
from diffdpo.models.live import LiveSampler
from diffdpo.models.pipeline_model import PipelineModel
from diffdpo.models.sampling import Sampling
from diffdpo.training.image.grids import Grids, Measure, Measured

OpenMeasure = Callable[[Sequence[str], str], Measure]
"""The scorers of those names on a device, as one that measures grids."""


class SampleWatch:
    """What the loop calls, in every process; see `protocols.Watch`. The main process draws, the others wait for it.

    Make it before the model forgets its encoders.

    Args:
        captions: of the held-out pairs, drawn where the config names no file of prompts.
        open_measure: None measures nothing.

    Raises:
        UserError: there is nothing to draw, or the model cannot draw it; besides whatever `open_measure` raises.
    """

    def __init__(
        self,
        config: ImageConfig,
        captions: Sequence[str],
        model: PipelineModel,
        accelerator: Accelerator,
        open_measure: OpenMeasure | None,
    ) -> None:
        self.config, self.accelerator = config, accelerator
        self.grids: Grids | None = None
        self.prompts = sample_prompts(config, captions)
        if not accelerator.is_main_process:
            return
        own = config.samples
        how = Sampling(own.steps, own.guidance, config.data.size, own.batch_size)
        self.seeds = [own.seed + place for place in range(len(self.prompts))]
        self.draw = LiveSampler(model, self.prompts, self.seeds, how, accelerator.autocast)
        self.measure = open_measure(own.scorers, str(accelerator.device)) if open_measure else _nothing

    def begin(self, folder: Path) -> None:
        """Draw the base model's grid, unless it is there. Call it with the run's folder, before a weight has moved."""
        own = self.config.samples
        if self.accelerator.is_main_process:
            made_with = {
                "steps": own.steps,
                "guidance": own.guidance,
                "size": self.config.data.size,
                "scorers": list(own.scorers),
            }
            self.grids = Grids(folder / "samples", self.prompts, self.seeds, made_with, self.draw, self.measure)
        self(0)

    def due(self, step: int) -> bool:
        every = self.config.samples.every
        return every is not None and (step % every == 0 or step == self.config.training.steps)

    def __call__(self, step: int) -> dict[str, float]:
        figures = self.grids.figures(step) if self.grids else {}
        self.accelerator.wait_for_everyone()
        return figures


def sample_prompts(config: ImageConfig, captions: Sequence[str]) -> list[str]:
    """The prompts of a run's grids.

    Raises:
        UserError: there are none.
    """
    own = config.samples
    if own.prompts is not None:
        return [prompt.text for prompt in read_prompts(own.prompts, keep_duplicates=True)][: own.count]
    if not captions:
        raise UserError(
            "samples.prompts: no held-out captions to draw; name a file of prompts, or raise data.held_out_share"
        )
    return list(dict.fromkeys(captions))[: own.count]


def _nothing(prompts: Sequence[str], images: Sequence[object]) -> Measured:
    return Measured({}, {})
