"""One process at a time in a folder. The lock leaves no file and goes with the process, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffdpo.errors import UserError


@contextmanager
def alone(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Within, no other process works in `folder`, which is there already.

    Args:
        wait: until the other one is done; else its presence is an error.

    Raises:
        UserError: another process works there, and `wait` is off.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another diffdpo is working there; wait, or name another folder") from None
        yield
    finally:
        os.close(descriptor)
