"""Many jobs, a few at a time, in order, given up together when one fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Event
from typing import TypeVar

T = TypeVar("T")


def run_all(jobs: Iterable[Callable[[], T]], workers: int, stop: Event) -> list[T]:
    """The results in the order of `jobs`, which are taken only as they are needed.

    The first failure ends all: `stop` is set, for jobs that wait, and those not begun never are. It is raised here.
    """
    futures: list[Future[T]] = []
    running: set[Future[T]] = set()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for job in jobs:
                if len(running) >= 2 * workers:
                    running = _some_done(running)
                futures.append(pool.submit(job))
                running.add(futures[-1])
            while running:
                running = _some_done(running)
        except BaseException:  # an interrupt as well: nobody will read what is still to come
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]


def _some_done(running: set[Future[T]]) -> set[Future[T]]:
    """Wait for one at least; those still running. Raises what a finished one raised."""
    done, left = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
    return left
