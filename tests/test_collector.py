"""Nobody is left without a collector, whatever happens while it rests."""

import gc
import threading

import pytest

from diffdpo.collector import collector_at_rest


@pytest.fixture(autouse=True)
def _collecting():
    before = gc.isenabled()
    gc.enable()
    yield
    gc.enable() if before else gc.disable()


def test_rests_within_and_not_after():
    with collector_at_rest():
        assert not gc.isenabled()
        with collector_at_rest():
            pass
        assert not gc.isenabled(), "the inner one must not wake it"
    assert gc.isenabled()


def test_wakes_after_an_error():
    @collector_at_rest()
    def fail() -> None:
        raise ValueError("on the way")

    for _ in range(2):  # a decorated function may be called again
        with pytest.raises(ValueError, match="on the way"):
            fail()
        assert gc.isenabled()


def test_stays_off_for_whom_it_was_off():
    gc.disable()
    with collector_at_rest():
        pass
    assert not gc.isenabled()


def test_threads_side_by_side_leave_it_as_it_was():
    begun, may_end = threading.Event(), threading.Event()

    def rest() -> None:
        with collector_at_rest():
            begun.set()
            may_end.wait(10)

    thread = threading.Thread(target=rest)
    with collector_at_rest():
        thread.start()
        assert begun.wait(10)
    assert not gc.isenabled(), "the other one is not done"
    may_end.set()
    thread.join()
    assert gc.isenabled()
