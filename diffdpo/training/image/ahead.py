"""The next micro-batches of a training, prepared by a thread while the network works on this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
Examples = Sequence[tuple[int, int]]


class Ahead(Generic[T]):
    """What `prepare` makes of some examples, made before it is asked for where that can be foreseen.

    Args:
        prepare: a function of the examples alone, so that looking ahead changes nothing.
        depth: micro-batches to hold ready; 0 prepares each when it is asked for, and starts no thread.
    """

    def __init__(self, prepare: Callable[[Examples], T], depth: int = 0) -> None:
        self.prepare, self.depth = prepare, depth
        self._thread = ThreadPoolExecutor(1, "prefetch") if depth else None
        self._coming: deque[tuple[int, int]] = deque()
        self._ready: deque[tuple[list[tuple[int, int]], Future[T]]] = deque()

    def announce(self, coming: Examples) -> None:
        """What will be asked for, in that order, after what was announced before."""
        if self._thread is not None:
            self._coming.extend(coming)

    def take(self, examples: Examples) -> T:
        """What `prepare` makes of these; then those that follow are begun, as many at a time."""
        self._cut_anew(len(examples))
        made = self._found(examples)
        if made is None:
            made = self.prepare(examples)
        self._begin(len(examples))
        return made

    def _cut_anew(self, size: int) -> None:
        """Micro-batches of another size than is asked for from now on are again examples to come."""
        while self._ready and len(self._ready[-1][0]) != size:
            some, future = self._ready.pop()
            future.cancel()
            self._coming.extendleft(reversed(some))

    def _found(self, examples: Examples) -> T | None:
        """What is ready of these, with what was to come before them let go; None if they were not foreseen."""
        wanted = list(examples)
        if all(expected != wanted for expected, _ in self._ready):
            return None
        while True:
            expected, future = self._ready.popleft()
            if expected == wanted:
                return future.result()
            future.cancel()

    def _begin(self, size: int) -> None:
        while self._thread is not None and len(self._coming) >= size and len(self._ready) < self.depth:
            some = [self._coming.popleft() for _ in range(size)]
            self._ready.append((some, self._thread.submit(self.prepare, some)))
