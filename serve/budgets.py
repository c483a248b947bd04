"""Stages that may be skipped: each runs within its budget of time, in threads of its own.

A thread cannot be stopped from outside. A stage over its budget runs on to its end, but nobody
waits for it, and as its threads are its own it holds up no other stage. While all are busy, the
next requests wait in line within their budgets and then go on without the stage.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class OverBudgetError(RuntimeError):
    """The stage took too long, or is switched off."""


class Budget:
    """The time and the threads of one stage.

    Args:
        budget_ms: 0 switches the stage off.
        threads: runs at one moment.
    """

    def __init__(self, stage: str, budget_ms: int, threads: int) -> None:
        self._budget_ms = budget_ms
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"ebb-{stage}")

    def run(self, work: Callable[[], T]) -> T:
        """What `work` returns, or what it raises.

        Raises:
            OverBudgetError: when it is not done in time.
        """
        if not self._budget_ms:
            raise OverBudgetError("switched off: its budget is 0")
        future = self._threads.submit(work)
        try:
            return future.result(self._budget_ms / 1000)
        except TimeoutError:
            if future.done():
                raise  # the stage's own error, and no budget's
            future.cancel()  # where it has not begun, it never will
            raise OverBudgetError(f"not done within {self._budget_ms} ms") from None

    def close(self) -> None:
        """Waits for what is running and ends the threads."""
        self._threads.shutdown(cancel_futures=True)
