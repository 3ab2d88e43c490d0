"""Python's collector of cycles, at rest while libraries are imported and models opened.

diffusers and transformers import most of themselves when a model is opened. What they make stays, and looking through
all of it again and again is a fifth of the time that it takes.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_resting = 0
_before = True


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """Within, or in the function that it decorates (no generator), no cycles are collected; after that as before.

    Several, within each other or in several threads, count as one.
    """
    _rest()
    try:
        yield
    finally:
        _wake()


def _rest() -> None:
    global _resting, _before
    with _lock:
        if _resting == 0:
            _before = gc.isenabled()
            gc.disable()
        _resting += 1


def _wake() -> None:
    global _resting
    with _lock:
        _resting -= 1
        if _resting == 0 and _before:
            gc.enable()
