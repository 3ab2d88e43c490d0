"""Anthropic's HH format (Bai et al. 2022): two whole transcripts that part at the assistant's last turn."""

from __future__ import annotations

from diffdpo.data.text.records import Ranking, pair
from diffdpo.errors import UserError

HUMAN = "\n\nHuman:"
ASSISTANT = "\n\nAssistant:"


def split_transcripts(where: str, chosen: str, rejected: str) -> Ranking:
    """The longest transcript that both begin with, up to an assistant's turn, as the prompt; the rest as the answers.

    Almost always the answers are the last turns. A few published pairs part earlier: their answers hold the turns
    after that, the human's too, as they were judged.

    Raises:
        UserError: the two share no beginning that ends in an assistant's turn.
    """
    shared = _common_length(chosen, rejected)
    boundary = chosen.rfind(ASSISTANT, 0, shared)
    if boundary < 0:
        raise UserError(
            f"{where}: 'chosen' and 'rejected' share no beginning up to {ASSISTANT!r}: neither transcripts as in "
            "Anthropic HH nor answers beside a 'prompt'"
        )
    end = boundary + len(ASSISTANT)
    return pair(where, chosen[:end], chosen[end:].rstrip(), rejected[end:].rstrip())


def _common_length(a: str, b: str) -> int:
    for place, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return place
    return min(len(a), len(b))
