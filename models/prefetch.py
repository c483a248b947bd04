"""Work done ahead: a thread makes the next batches while the one before is trained on.

One thread makes them all, in their order. So a seeded generator that nothing but their making uses
is used in the same order as without the thread, and what comes out is the same bit for bit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Final, TypeVar, cast

DEPTH = 2
"""Batches that may be in the making or ready, beside the one that is used."""
_END: Final = object()
Given = TypeVar("Given")
Made = TypeVar("Made")


@contextmanager
def ahead(
    source: Iterable[Given], make: Callable[[Given], Made], *, depth: int = DEPTH
) -> Iterator[Iterator[Made]]:
    """Gives an iterator over `make` of everything in `source`, made up to `depth` ahead of its use.

    Source and `make` run in a thread of their own. Whatever ends the block, the thread has ended
    after it, and a generator as `source` is closed. What they raise is raised where the block asks
    for the next one, with the traceback of the thread.

    Raises:
        ValueError: for a depth under 1.
    """
    if depth < 1:
        raise ValueError(f"depth is {depth}: at least one must be made ahead of its use")
    ready: SimpleQueue[Future[Made] | None] = SimpleQueue()
    room, left = threading.Semaphore(depth), threading.Event()

    def fill() -> None:
        try:
            for made in _making(source, make, room, left):
                ready.put(made)
        finally:
            ready.put(None)

    thread = threading.Thread(target=fill, name="ahead", daemon=True)
    thread.start()
    try:
        yield _taking(ready, room)
    finally:
        left.set()
        room.release()  # the thread may be waiting for room
        thread.join()


def _making(
    source: Iterable[Given],
    make: Callable[[Given], Made],
    room: threading.Semaphore,
    left: threading.Event,
) -> Iterator[Future[Made]]:
    """What is made, one by one as there is room; last, if so, what was raised."""
    given = iter(source)
    try:
        while room.acquire() and not left.is_set():
            made: Future[Made] = Future()
            try:
                item = next(given, _END)
                if item is _END:
                    return
                made.set_result(make(cast(Given, item)))
            except BaseException as error:  # it is raised again where the batch is asked for
                made.set_exception(error)
                yield made
                return
            yield made
    finally:
        if isinstance(given, Generator):
            given.close()


def _taking(ready: SimpleQueue[Future[Made] | None], room: threading.Semaphore) -> Iterator[Made]:
    while (made := ready.get()) is not None:
        found = made.result()
        room.release()
        yield found
