"""What the grids of a training run are measured by: `training`, which knows no scorers, is handed it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffdpo.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from diffdpo.training.image.grids import Measure, Measured


def check_scorers(names: Sequence[str]) -> None:
    """Raise UserError if `samples.scorers` names one that is not there. Loads nothing."""
    from diffdpo.commands.judges import parse_names

    try:
        parse_names(names)
    except UserError as error:
        raise UserError(f"samples.scorers: {error}") from None


def open_measure(names: Sequence[str], device: str) -> Measure:
    """The scorers of `samples.scorers`, and how images look.

    Raises:
        UserError: an unknown scorer.
        scorers.ScorerError: weights that cannot be loaded.
    """
    from diffdpo.benchmarks.look import MEANING, look
    from diffdpo.commands.judges import load_scorers
    from diffdpo.training.image.grids import Measured
    from scorers.together import score_many

    check_scorers(names)
    scorers = load_scorers(names, device)

    def measure(prompts: Sequence[str], images: Sequence[Image.Image]) -> Measured:
        scores = score_many(scorers, prompts, images)
        looks = [look(image) for image in images]
        return Measured(
            scores={scorer.name: column.tolist() for scorer, column in zip(scorers, scores, strict=True)},
            look={name: [one[name] for one in looks] for name in MEANING},
        )

    return measure
