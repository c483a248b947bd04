"""Group commit: calls that come while a commit runs are joined into the next one.

A commit waits for the disk; four callers that take turns wait four times. Here the first caller in
leads: it commits its own events and those of all who queued up meanwhile, then hands over. Each
caller returns when its own events are durable, and learns of its own errors only. Whole tables are
joined, before they are encoded: that costs a table of one event as much as one of a hundred.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import pairwise

import pyarrow as pa

from models.stores.protocol import Outcome

Apply = Callable[[pa.Table], list[Outcome]]
"""Applies events in one transaction, all or none; durable when it returns."""


class Committer:
    """Joins tables of many threads into few transactions, in the order they came."""

    def __init__(self, apply: Apply) -> None:
        self._apply = apply
        self._turn = threading.Condition()
        self._queue: list[_Ticket] = []
        self._is_led = False

    @property
    def num_waiting(self) -> int:
        """Calls that wait for the commit that is running."""
        return len(self._queue)

    def commit(self, events: pa.Table) -> list[Outcome]:
        """One outcome per event, once they are durable. Raises what `apply` raised for them.

        The tables of all calls have one schema.
        """
        ticket = _Ticket(events)
        with self._turn:
            self._queue.append(ticket)
            while self._is_led and not ticket.done():
                self._turn.wait()
            if ticket.done():
                return ticket.result()
            self._is_led = True
            group, self._queue = self._queue, []
        try:
            self._settle(group)
        finally:
            with self._turn:
                # An interrupt may have left some: the next leader sends them again, which does
                # no harm, as an event is applied once.
                left = [each for each in group if not each.done() and each is not ticket]
                self._queue[:0] = left
                self._is_led = False
                self._turn.notify_all()
        return ticket.result()

    def _settle(self, group: Sequence[_Ticket]) -> None:
        """Gives each its outcomes or its error."""
        try:
            outcomes = self._apply(pa.concat_tables([ticket.events for ticket in group]))
        except Exception as error:
            if len(group) == 1:
                group[0].set_exception(error)
                return
            for ticket in group:  # one fails the whole transaction, so each has one of its own
                self._settle([ticket])
        else:
            ends = [0]
            for ticket in group:
                ends.append(ends[-1] + len(ticket.events))
            for ticket, (low, high) in zip(group, pairwise(ends), strict=True):
                ticket.set_result(outcomes[low:high])


class _Ticket(Future[list[Outcome]]):
    """A table that waits for its outcomes."""

    def __init__(self, events: pa.Table) -> None:
        super().__init__()
        self.events = events
