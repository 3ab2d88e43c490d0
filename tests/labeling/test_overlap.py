"""What is made ahead: in order, no more than was said, errors where they belong, and no thread left behind."""

import threading
import weakref
from collections.abc import Iterator

import pytest

from diffdpo.labeling.overlap import ahead


class Item:
    """Something whose life can be watched."""

    def __init__(self, number: int) -> None:
        self.number = number


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]


@pytest.mark.parametrize("most", [0, 1, 2, 9])
def test_the_items_come_in_order_and_each_once(most: int) -> None:
    with ahead(iter(range(5)), most) as items:
        assert list(items) == [0, 1, 2, 3, 4]
    assert threads() == []


def test_the_next_is_made_while_the_last_is_held() -> None:
    made = [threading.Event() for _ in range(3)]

    def make() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    with ahead(make(), 1) as items:
        assert next(items) == 0
        assert made[1].wait(60)
        assert not made[2].is_set()


def test_without_a_thread_each_is_made_when_it_is_asked_for() -> None:
    made: list[int] = []
    with ahead((made.append(number) for number in range(3)), 0) as items:
        assert made == []
        next(items)
        assert made == [0]
        assert threads() == []


@pytest.mark.parametrize("most", [1, 2])
def test_beside_the_held_one_no_more_live_than_may_wait(most: int) -> None:
    alive: weakref.WeakSet[Item] = weakref.WeakSet()
    counts: list[int] = []

    def make() -> Iterator[Item]:
        for number in range(6):
            yield new(number)

    def new(number: int) -> Item:
        item = Item(number)
        alive.add(item)
        counts.append(len(alive))
        return item

    with ahead(make(), most) as items:
        while (item := next(items, None)) is not None:
            del item
    assert max(counts) <= 1 + most


@pytest.mark.parametrize("most", [0, 1, 5])
def test_an_error_comes_where_its_item_would_have_come(most: int) -> None:
    def make() -> Iterator[int]:
        yield 0
        yield 1
        raise ValueError("the third cannot be made")

    taken: list[int] = []
    with pytest.raises(ValueError, match="the third"), ahead(make(), most) as items:
        taken.extend(items)
    assert taken == [0, 1]
    assert threads() == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_who_leaves_early_waits_for_one_item_and_no_other_is_begun(error: type[BaseException]) -> None:
    begun: list[int] = []
    finished: list[int] = []
    second, leaving = threading.Event(), threading.Event()

    def make() -> Iterator[int]:
        for number in range(9):
            begun.append(number)
            if number == 1:
                second.set()
                assert leaving.wait(60)
            finished.append(number)
            yield number

    def leave() -> None:
        with ahead(make(), 4) as items:
            assert next(items) == 0
            assert second.wait(60)
            threading.Timer(0.05, leaving.set).start()
            raise error

    with pytest.raises(error):
        leave()
    assert begun == finished == [0, 1]
    assert threads() == []
