"""The C library's heap while a CPU trains: what a step frees is kept for the next one.

glibc gives large blocks back to the system as soon as they are freed and asks for them anew, and the system clears
each page again: a tenth to a fifth of the time of a step that makes gigabytes of activations and gradients.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""Parameters of `mallopt`, by glibc's malloc.h."""
_KEPT = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
"""Large pieces are not mapped one by one, and nothing is given back."""
_USUAL = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}
"""Where glibc's own thresholds, which grow, end up in a program that frees large pieces."""
_OWN = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
_TUNABLES = ("glibc.malloc.mmap_max", "glibc.malloc.mmap_threshold", "glibc.malloc.trim_threshold")
"""By which users set the same: as variables, and within GLIBC_TUNABLES."""

_lock = threading.Lock()
_within = 0


@contextmanager
def freed_memory_kept(device: torch.device) -> Iterator[None]:
    """Within, on a CPU under glibc, freed memory stays with the process; afterwards what is free is given back.

    It holds for the whole process, and until the last of those ends that lie within each other or side by side. A user
    who has set glibc's own variables has decided already. Elsewhere nothing happens.
    """
    libc = _glibc() if device.type == "cpu" else None
    if libc is None:
        yield
        return
    _enter(libc)
    try:
        yield
    finally:
        _leave(libc)


def _enter(libc: ctypes.CDLL) -> None:
    global _within
    with _lock:
        _within += 1
        if _within == 1:
            _set(libc, _KEPT)


def _leave(libc: ctypes.CDLL) -> None:
    global _within
    with _lock:
        _within -= 1
        if _within == 0:
            _set(libc, _USUAL)
            libc.malloc_trim(ctypes.c_size_t(0))


def _glibc() -> ctypes.CDLL | None:
    """The C library, where it is glibc and its settings are left to us."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    decided = any(name in os.environ for name in _OWN) or any(name in tunables for name in _TUNABLES)
    if decided or not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None


def _set(libc: ctypes.CDLL, values: dict[int, int]) -> None:
    """One that glibc refuses stays as it was, which costs time and no more."""
    for parameter, value in values.items():
        libc.mallopt(parameter, value)
