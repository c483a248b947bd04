"""Work ahead of its use: in order, bounded, and never left behind."""

import threading
import traceback

import numpy as np
import pytest

from models.prefetch import ahead

LONG = 20
"""Seconds to wait for a thread before the test has failed."""


def running():
    return [thread for thread in threading.enumerate() if thread.name == "ahead"]


class Feed:
    """Numbers without end; says when it was closed, and by which thread."""

    def __init__(self):
        self.given, self.closed_by = 0, None
        self.more = threading.Condition()

    def numbers(self):
        try:
            while True:
                with self.more:
                    self.given += 1
                    self.more.notify_all()
                yield self.given
        finally:
            self.closed_by = threading.current_thread().name

    def wait_for(self, num):
        with self.more:
            return self.more.wait_for(lambda: self.given >= num, LONG)


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_all_comes_in_its_order_and_draws_as_without_a_thread(depth):
    def drawing(generator):
        return lambda number: (number, generator.random())

    plain = list(map(drawing(np.random.default_rng(1)), range(50)))
    with ahead(range(50), drawing(np.random.default_rng(1)), depth=depth) as made:
        assert list(made) == plain
    assert not running()


def test_it_is_made_in_another_thread():
    with ahead([1], lambda _: threading.current_thread()) as made:
        assert next(made) is not threading.current_thread()


def test_nothing_is_an_end_at_once():
    with ahead([], str) as made:
        assert list(made) == []


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_no_more_is_made_than_there_is_room_for(depth):
    feed, late = Feed(), threading.Event()

    def make(number):
        if number > depth + taken:
            late.set()
        return number

    taken = 0
    with ahead(feed.numbers(), make, depth=depth) as made:
        for expected in range(1, 30):
            assert feed.wait_for(depth + taken), "it is made before it is asked for"
            assert not late.wait(0.01)
            taken += 1
            assert next(made) == expected
    assert not late.is_set()
    assert feed.given <= depth + taken


def broken(number):
    if number == 3:
        raise KeyError(f"number {number}")
    return number


def breaking():
    yield from (0, 1, 2)
    broken(3)


@pytest.mark.parametrize(
    ("source", "make"), [(range(9), broken), (breaking(), int)], ids=["made", "given"]
)
def test_what_is_raised_there_is_raised_here_after_what_came_before(source, make):
    with ahead(source, make) as made:
        assert [next(made) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(KeyError, match="number 3") as caught:
            next(made)
        assert next(made, None) is None
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-1] == "broken", "the place where it went wrong is told"
    assert not running()


@pytest.mark.parametrize("taken", [0, 1, 4])
def test_leaving_early_ends_the_thread_and_closes_the_feed(taken):
    feed = Feed()
    with ahead(feed.numbers(), int) as made:
        for _ in range(taken):
            next(made)
        assert feed.wait_for(taken + 1)
        assert feed.closed_by is None
    assert feed.closed_by == "ahead"
    assert not running()


def test_an_error_in_the_block_ends_the_thread_and_is_the_one_that_is_told():
    feed = Feed()

    def block():
        with ahead(feed.numbers(), int) as made:
            next(made)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()
    assert feed.closed_by == "ahead"
    assert not running()


def test_without_room_nothing_could_be_made():
    with pytest.raises(ValueError, match="depth is 0"), ahead([1], int, depth=0):
        pass
