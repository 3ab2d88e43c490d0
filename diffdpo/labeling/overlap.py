"""What is asked for next is made by a thread while the last is worked on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def ahead(items: Iterable[T], most: int) -> Iterator[Iterator[T]]:
    """The same items in order, made by one thread before they are asked for, at most `most` of them waiting.

    An error in making one is raised where that one is asked for. Leaving the block, in whatever way, waits for the
    one that is being made; no other is begun, and the thread is gone.

    Args:
        most: 0 makes each when it is asked for, and starts no thread.
    """
    if most == 0:
        yield iter(items)
        return
    source, thread = iter(items), ThreadPoolExecutor(1, "ahead")
    try:
        yield _taken(source, thread, most)
    finally:
        thread.shutdown(cancel_futures=True)


def _taken(source: Iterator[T], thread: ThreadPoolExecutor, most: int) -> Iterator[T]:
    end = object()
    coming = deque(thread.submit(next, source, end) for _ in range(most))
    while (item := coming.popleft().result()) is not end:
        coming.append(thread.submit(next, source, end))
        yield item  # type: ignore[misc]
