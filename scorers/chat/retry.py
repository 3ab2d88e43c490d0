"""Trying again what fails in passing, after waits that grow, differ and can be broken off."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from threading import Event
from typing import TypeVar

from scorers.errors import ScorerError

T = TypeVar("T")

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
LONGEST_ASKED_S = 600.0
"""A server that wants us to stay away for longer has no more to give today: better an error than a sleeping run."""


class Passing(Exception):
    """A failure that may be gone next time. `wait_s`: how long the server asked us to stay away, if it did."""

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class Stopped(Exception):
    """Another thread has failed, so nobody waits for this one any more."""


def with_retries(call: Callable[[], T], max_retries: int, stop: Event) -> T:
    """`call()`, again up to `max_retries` times while it raises Passing. `stop` ends a wait at once.

    Raises:
        ScorerError: it failed every time, or the server asks for too long a wait; with the last failure's message.
        Stopped: `stop` was set.
    """
    for attempt in range(max_retries + 1):
        if stop.is_set():
            raise Stopped
        try:
            return call()
        except Passing as failure:
            if attempt == max_retries:
                raise ScorerError(f"{failure} (tried {attempt + 1} times)") from failure
            wait = _wait_s(attempt, failure.wait_s)
            if wait > LONGEST_ASKED_S:
                raise ScorerError(f"{failure} (the server asks to wait {wait:.0f} s)") from failure
        stop.wait(wait)
    raise AssertionError("unreachable")


def retry_after_s(header: str | None) -> float | None:
    """Seconds from a Retry-After header, which holds seconds or a date (RFC 9110, 10.2.3); None if it says nothing."""
    if header is None:
        return None
    try:
        return max(0.0, float(header)) if header.strip().isdigit() else _until(header)
    except (ValueError, TypeError):
        return None


def _until(date: str) -> float:
    return max(0.0, parsedate_to_datetime(date).timestamp() - time.time())


def _wait_s(attempt: int, asked: float | None) -> float:
    """As asked, or else doubling; with chance in it, so that many workers do not come back together."""
    if asked is not None:
        return asked + FIRST_WAIT_S * random.random()
    longest: float = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0**attempt)
    return longest * random.uniform(0.5, 1.0)
