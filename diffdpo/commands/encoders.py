"""What `--encoder` means, for the commands that measure how images drift."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffdpo.errors import UserError

if TYPE_CHECKING:
    from diffdpo.benchmarks.encoder import ImageEncoder

ENCODERS = {"shapes": "shapes-pickscore"}
"""Suites with an encoder that costs nothing to open."""


def encoder_name(asked: str | None, suite: str) -> tuple[str, str | None] | None:
    """The scorer whose encoder is used, and its weights; None without one. Opens nothing.

    Raises:
        UserError: an unknown scorer, or a path that does not exist.
    """
    from diffdpo.commands.judges import parse_names

    asked = asked or ENCODERS.get(suite)
    return next(iter(parse_names([asked]).items())) if asked else None


def open_encoder(asked: str | None, suite: str, device: str) -> ImageEncoder | None:
    """The encoder itself.

    Raises:
        UserError: as `encoder_name`, or the scorer cannot be opened.
    """
    named = encoder_name(asked, suite)
    if named is None:
        return None
    import scorers
    from diffdpo.benchmarks.encoder import ImageEncoder
    from diffdpo.devices import pick_device

    try:
        return ImageEncoder(scorers.load(named[0], model=named[1], device=pick_device(device)))
    except scorers.ScorerError as error:
        raise UserError(f"--encoder {named[0]}: {error}") from None
