"""How a run's images are cut: into blocks that are drawn and scored together, and into parts for several machines.

The last bit of an image or a score may depend on the batch it is computed in. A part is therefore made of whole
blocks, and a block of whole batches: a part, a run that was stopped and the run as a whole compute the same batches.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from diffdpo.errors import UserError

AT_LEAST = 64
"""Images of a block, but for the last one. So many are in memory at a time."""


@dataclass(frozen=True)
class Part:
    """One of several machines' share of a run; the first has number 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """`1/2`, the first of two.

        Raises:
            UserError: it does not say so.
        """
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        part = cls(int(match[1]), int(match[2])) if match else None
        if part is None or not 1 <= part.number <= part.of:
            raise UserError(f"--part {text}: say which part of how many, as in 1/2 and 2/2")
        return part

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def block_size(batch_size: int) -> int:
    """The smallest number of whole batches that has `AT_LEAST` images."""
    return batch_size * -(-AT_LEAST // batch_size)


def span_of(part: Part | None, count: int, batch_size: int) -> range:
    """The images that a part has of `count`: whole blocks, shared out evenly; all of them without a part.

    Raises:
        UserError: there are more parts than blocks.
    """
    if part is None:
        return range(count)
    size = block_size(batch_size)
    total = -(-count // size)
    if part.of > total:
        raise UserError(
            f"--part {part}: {count} images are {total} blocks of {size}, which stay whole: {total} parts at most"
        )
    first, last = (total * number // part.of for number in (part.number - 1, part.number))
    return range(first * size, min(last * size, count))


def blocks(span: range, batch_size: int) -> Iterator[range]:
    """The blocks of a span."""
    size = block_size(batch_size)
    for start in range(span.start, span.stop, size):
        yield range(start, min(start + size, span.stop))
