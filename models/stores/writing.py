"""What one write transaction does to the databases: judge each event, then store what is new."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import lmdb
import numpy as np

from models.events import Interactions
from models.memory import State, StateSpec
from models.stores.batch import Batch
from models.stores.judging import is_lifelong, judge
from models.stores.layout import (
    BY_EVENT,
    BY_INTEREST,
    BY_TIME,
    NUMBER,
    Counters,
    Databases,
    Txn,
    graves_of,
    join,
    keys_of,
    number_of,
)
from models.stores.pending import add
from models.stores.pending import pack as pack_state
from models.stores.protocol import Outcome
from models.stores.rows import pack
from models.stores.tombstones import Graves

T = TypeVar("T")


class Writing:
    """One write transaction. `close` it before the commit."""

    def __init__(self, txn: Txn, databases: Databases, spec: StateSpec) -> None:
        self.counters = Counters.read(txn, databases)
        self.txn = txn
        self.databases, self.spec = databases, spec

    def close(self) -> None:
        """Keeps the counters."""
        self.counters.write(self.txn, self.databases)

    def apply(self, batch: Batch, cutoff_ms: int) -> list[Outcome]:
        """Stores what is new in a batch; an unknown event before `cutoff_ms` is late."""
        outcomes = self._judge(batch, max(cutoff_ms, self.counters.floor))
        rows: dict[Outcome, list[int]] = {outcome: [] for outcome in Outcome}
        for row, outcome in enumerate(outcomes):
            rows[outcome].append(row)
        fresh, late = rows[Outcome.ACCEPTED], rows[Outcome.LATE]
        numbers = self._numbers({batch.users[row] for row in (*fresh, *late)})
        if fresh:
            self._advance(batch, fresh, numbers)
        for row in late:
            key = numbers[batch.users[row]] + join(batch.events[row])
            self.txn.put(key, batch.bodies[row], overwrite=False, db=self.databases.late)
        return outcomes

    def number(self, user_id: str) -> bytes:
        """A user's number, given now where there is none."""
        number = number_of(self.txn, self.databases, user_id)
        if number is None:
            self.counters.user += 1
            number = join(self.counters.user)
            self.txn.put(user_id.encode(), number, db=self.databases.users)
        return number

    def put_state(self, number: bytes, state: State) -> None:
        """Keeps a state; none where nothing is in it."""
        if state:
            self.txn.put(number, pack_state(state, self.spec), db=self.databases.states)
        else:
            self.txn.delete(number, db=self.databases.states)

    def _record(
        self, numbers: Sequence[bytes], events: Interactions, bodies: Sequence[bytes]
    ) -> None:
        """Puts new events `(N,)` into the history and the stream."""
        first = self.counters.sequence + 1
        self.counters.sequence += len(events)
        self.counters.watermark = max(self.counters.watermark, int(events["ts"].max()))
        sequences = keys_of(NUMBER, np.arange(first, first + len(events)))
        keys = self.put_history(numbers, events, sequences, bodies)
        self._put(self.databases.stream, zip(sequences, keys, strict=True), append=True)

    def put_history(
        self,
        numbers: Sequence[bytes],
        events: Interactions,
        sequences: Sequence[bytes],
        bodies: Sequence[bytes],
    ) -> list[bytes]:
        """Puts events `(N,)` into the history, its marks and index; gives their keys there."""
        users = np.frombuffer(b"".join(numbers), ">u8")
        keys = keys_of(BY_TIME, users, events["ts"], events["event"])
        values = [a + b + c for a, b, c in zip(sequences, pack(events), bodies, strict=True)]
        self._put(self.databases.history, zip(keys, values, strict=True))
        marks = keys_of(BY_EVENT, users, events["event"])
        self._put(self.databases.marks, zip(marks, keys_of(NUMBER, events["ts"]), strict=True))
        lifelong = is_lifelong(events, self.spec)
        users, events = users[lifelong], events[lifelong]
        found = keys_of(BY_INTEREST, users, events["interest"], events["ts"], events["event"])
        self._put(self.databases.interests, ((key, b"") for key in found))
        return keys

    def _put(
        self,
        database: lmdb._Database,
        items: Iterable[tuple[bytes, bytes]],
        *,
        append: bool = False,
    ) -> None:
        with self.txn.cursor(database) as cursor:
            cursor.putmulti(sorted(items), append=append)

    def _judge(self, batch: Batch, cutoff_ms: int) -> list[Outcome]:
        """One outcome for each event."""
        places = batch.by_user()
        numbers = self._find(self.databases.users, {user: user.encode() for user in places})
        marks = {
            row: numbers[user] + join(batch.events[row])
            for row, user in enumerate(batch.users)
            if user in numbers
        }
        stored = {batch.events[row] for row in self._find(self.databases.marks, marks)}
        has_graves = bool(self.txn.stat(self.databases.tombstones)["entries"])
        outcomes = [Outcome.DUPLICATE] * len(batch)
        for user, rows in places.items():
            graves = graves_of(self.txn, self.databases, user) if has_graves else Graves(user)
            judged = judge(batch, rows, stored=stored, graves=graves, cutoff_ms=cutoff_ms)
            for row, outcome in zip(rows, judged, strict=True):
                outcomes[row] = outcome
        return outcomes

    def _numbers(self, users: Iterable[str]) -> dict[str, bytes]:
        """The numbers of users, given now where there are none."""
        return {user: self.number(user) for user in sorted(users)}

    def _advance(self, batch: Batch, fresh: list[int], numbers: dict[str, bytes]) -> None:
        """Puts new events, and the states after them."""
        of_user: dict[bytes, list[int]] = {}
        for row in fresh:
            of_user.setdefault(numbers[batch.users[row]], []).append(row)
        states = self._find(self.databases.states, {number: number for number in of_user})
        items = [
            (number, add(states.get(number), batch, rows, self.spec))
            for number, rows in of_user.items()
        ]
        self._put(self.databases.states, items)
        bodies = [batch.bodies[row] for row in fresh]
        self._record(
            [numbers[batch.users[row]] for row in fresh], batch.interactions[fresh], bodies
        )

    def _find(self, database: lmdb._Database, keys: dict[T, bytes]) -> dict[T, bytes]:
        """The values of those keys that are there."""
        with self.txn.cursor(database) as cursor:
            found = dict(cursor.getmulti(sorted(keys.values())))
        return {name: found[key] for name, key in keys.items() if key in found}
