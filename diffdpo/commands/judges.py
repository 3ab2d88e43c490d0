"""What `--scorer` means, for every command that has it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffdpo.errors import UserError, unknown

if TYPE_CHECKING:
    from scorers.base import Scorer

SCORER_HELP = (
    "pickscore, hpsv2, hpsv2.1, imagereward, aesthetic, clipscore, shapes-pickscore, shapes-hpsv2 or another one that "
    "is installed; NAME=PATH for local weights (vlm-judge: a local model or a JSON file of options); give it again for "
    "more"
)


def parse_names(names: Sequence[str]) -> dict[str, str | None]:
    """`NAME` (published weights) or `NAME=PATH` (a local folder or file) -> name and path. Loads nothing.

    Raises:
        UserError: an unknown name, a name given twice, or a path that does not exist.
    """
    import scorers

    known = scorers.names()
    parsed: dict[str, str | None] = {}
    for text in names:
        name, _, path = text.partition("=")
        if name not in known:
            raise unknown("scorer", name, known)
        if name in parsed:
            raise UserError(f"scorer {name!r} is given twice")
        if path and not Path(path).exists():
            raise UserError(f"--scorer {text}: {path}: no such file or folder")
        parsed[name] = path or None
    return parsed


def load_scorers(names: Sequence[str], device: str) -> list[Scorer]:
    """The scorers themselves.

    Raises:
        UserError: as `parse_names`.
        scorers.ScorerError: weights that cannot be loaded.
    """
    import scorers

    return [scorers.load(name, model=model, device=device) for name, model in parse_names(names).items()]
