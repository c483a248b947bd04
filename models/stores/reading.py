"""What read transactions find: of one user the history, whole or near an interest; all events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice

import lmdb
import numpy as np
import pyarrow as pa

from models.events import Interactions
from models.memory import State, StateSpec
from models.memory import ring as rings
from models.stores.layout import Databases, Txn, join, part, under
from models.stores.pending import unpack as unpack_state
from models.stores.rows import REST, to_batch, unpack

_BODY = 8 + REST.itemsize  # the sequence number and the rest stand before the JSON row


@dataclass(frozen=True)
class Stored:
    """Records of the history of one user, `(N,)` each, in `(ts, event)` order."""

    keys: list[bytes]
    values: list[bytes]
    interactions: Interactions

    @staticmethod
    def of(items: Sequence[tuple[bytes, bytes]]) -> Stored:
        """From records as they are stored."""
        keys, values = [key for key, _ in items], [value for _, value in items]
        times = np.frombuffer(b"".join(keys), ">u8").reshape(-1, 3)
        rests = [value[8:_BODY] for value in values]
        return Stored(keys, values, unpack(times[:, 1], times[:, 2], rests))

    @property
    def bodies(self) -> list[bytes]:
        """The events as JSON; empty where they came with a snapshot."""
        return [body_of(value) for value in self.values]

    def sequence(self, row: int) -> bytes:
        """Its key in the stream; zero where it came with a snapshot."""
        return self.values[row][:8]


def body_of(value: bytes) -> bytes:
    """The JSON row in a value of the history."""
    return value[_BODY:]


def stored_of(txn: Txn, databases: Databases, number: bytes | None) -> Stored:
    """A user's whole history."""
    return Stored.of(list(under(txn, databases.history, number)) if number else [])


def state_of(txn: Txn, databases: Databases, number: bytes | None, spec: StateSpec) -> State:
    """The state kept under a user number; `EMPTY` for none, or a user with late events only."""
    return unpack_state(number and txn.get(number, db=databases.states), spec)


def nearest_to(
    txn: Txn,
    databases: Databases,
    number: bytes | None,
    *,
    spec: StateSpec,
    interests: Sequence[int],
    recent: int,
    num: int,
) -> Interactions:
    """See `MemoryStore.nearest`."""
    state = state_of(txn, databases, number, spec)
    last = state.ring[len(state.ring) - min(recent, len(state.ring)) :]
    if number is None or num < 1:
        return last
    keys = []
    for interest in sorted(set(interests)):
        prefix = number + interest.to_bytes(2, "big")
        found = islice(under(txn, databases.interests, prefix, reverse=True), num)
        keys += [number + key[len(prefix) :] for key, _ in found]
    # Keys in order lie on pages in order.
    items = [(key, txn.get(key, b"", db=databases.history)) for key in sorted(keys)]
    known = Stored.of(items).interactions
    more = known[~np.isin(known["event"], last["event"])]
    return rings.canonical(np.concatenate([more, last]))


Begin = Callable[[], AbstractContextManager[Txn]]
"""Begins a read transaction."""
_PAGE = 512  # records read in one transaction


def page_of(txn: Txn, database: lmdb._Database, after: bytes) -> list[tuple[bytes, bytes]]:
    """The records of the next page, whose keys come after `after`."""
    with txn.cursor(database) as cursor:
        if cursor.set_range(after) and cursor.key() == after:
            cursor.next()
        return list(islice(cursor, _PAGE)) if cursor.key() else []


def late_in(begin: Begin, databases: Databases) -> Iterator[pa.RecordBatch]:
    """All late events; see `MemoryStore.late_events`."""
    after = b""
    while True:
        with begin() as txn:
            found = page_of(txn, databases.late, after)
        if not found:
            return
        yield to_batch([body for _, body in found])
        after = found[-1][0]


def stream_in(
    begin: Begin, databases: Databases, after: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Accepted events in the order of their commits; see `MemoryStore.stream`."""
    while True:
        with begin() as txn:
            found = page_of(txn, databases.stream, join(after))
            stored = [txn.get(key, b"", db=databases.history) for _, key in found]
        if not found:
            return
        (after,) = part(found[-1][0])
        yield after, to_batch([body_of(value) for value in stored])
