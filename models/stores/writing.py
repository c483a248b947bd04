"""What one write transaction does to the databases: judge each event, then store what is new."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import pyarrow as pa

from models.events import Interactions, Interests
from models.events import encode as to_interactions
from models.memory import EMPTY, State, StateSpec, encode, fold, merge
from models.stores.layout import Counters, Databases, Txn, join, number_of, part, remove, state_of
from models.stores.protocol import Outcome, Receipt
from models.stores.rows import to_bytes
from models.stores.snapshot import Snapshot, tombstone_key

_SWEEP_PER_EVENT = 2  # more than come in, so that expired marks never pile up
_SWEEP_LEAST = 16


@dataclass(frozen=True)
class Batch:
    """Events of one call, encoded before the write lock is taken. All are of length N."""

    users: list[str]
    ts: list[int]
    events: list[int]
    interactions: Interactions
    bodies: list[bytes]

    @staticmethod
    def of(table: pa.Table, interests: Interests | None) -> Batch:
        """From good rows in `SCHEMA`; ValueError when the columns are others."""
        bodies = to_bytes(table)  # first: it tells a wrong table plainly
        interactions = to_interactions(table, interests)
        return Batch(
            users=table["user_id"].to_pylist(),
            ts=interactions["ts"].tolist(),
            events=interactions["event"].tolist(),
            interactions=interactions,
            bodies=bodies,
        )

    def by_user(self) -> dict[str, list[int]]:
        """The rows of each user, in the order given."""
        places: dict[str, list[int]] = {}
        for row, user_id in enumerate(self.users):
            places.setdefault(user_id, []).append(row)
        return places


class Writing:
    """One write transaction. `close` it before the commit."""

    def __init__(self, txn: Txn, databases: Databases, spec: StateSpec) -> None:
        self.counters = Counters.read(txn, databases)
        self.txn = txn
        self._databases, self._spec = databases, spec

    def close(self) -> None:
        """Keeps the counters."""
        self.counters.write(self.txn, self._databases)

    def apply(self, batch: Batch, cutoff_ms: int) -> list[Outcome]:
        """Stores what is new in a batch; an unknown event before `cutoff_ms` is late."""
        cutoff_ms = max(cutoff_ms, self.counters.floor)
        outcomes = [Outcome.DUPLICATE] * len(batch.users)
        for user_id, places in batch.by_user().items():
            state, fresh = self._judge(user_id, places, batch, cutoff_ms, outcomes)
            if fresh:
                new = fold(batch.interactions[fresh], self._spec)
                self._put_state(self.number(user_id), merge(state, new, self._spec))
        for row, outcome in enumerate(outcomes):  # in the order given, across users
            if outcome is Outcome.ACCEPTED:
                self._record(batch, row)
            elif outcome is Outcome.LATE:
                key = self.number(batch.users[row]) + join(batch.events[row])
                self.txn.put(key, batch.bodies[row], overwrite=False, db=self._databases.late)
        self._sweep(cutoff_ms, _SWEEP_LEAST + _SWEEP_PER_EVENT * len(outcomes))
        return outcomes

    def erase(self, user_id: str, now_ms: int) -> Receipt:
        """Removes all that is a user's and leaves a tombstone."""
        tables, txn = self._databases, self.txn
        erased_at = max(now_ms, self._erased_at(user_id))
        history = late = marks = rest = []
        number = number_of(txn, tables, user_id)
        if number is not None:
            # An event may be a little ahead of the clock; the tombstone covers it as well.
            newest = self._state(number).ring["ts"][-1:].tolist()
            history = list(remove(txn, tables.history, number))
            late = list(remove(txn, tables.late, number))
            marks = list(remove(txn, tables.marks, number))
            rest = list(remove(txn, tables.states, number))
            rest += [item for _, value in history for item in remove(txn, tables.stream, value[:8])]
            rest += [(user_id.encode(), number)]
            txn.delete(user_id.encode(), db=tables.users)
            erased_at = max([erased_at, *newest, *(part(ts)[0] for _, ts in marks)])
        txn.put(tombstone_key(user_id), join(erased_at), db=tables.tombstones)
        return Receipt(
            num_events=len(history) + len(late),
            num_marks=len(marks),
            num_bytes=sum(len(k) + len(v) for k, v in chain(history, late, marks, rest)),
            erased_at_ms=erased_at,
        )

    def load(self, snapshot: Snapshot) -> None:
        """Fills a store without users from a snapshot, save those erased since it was written."""
        counters, info = self.counters, snapshot.info
        for row in snapshot.rows():
            erased_at = self._erased_at(row.user_id)
            known = snapshot.tombstones.get(tombstone_key(row.user_id), -1)
            if erased_at > known and not _all_after(row.state, erased_at, self._spec):
                continue
            number = self.number(row.user_id)
            self._put_state(number, row.state)
            for event, ts in zip(row.marks.tolist(), row.marks_ts.tolist(), strict=True):
                self._put_mark(number, event, ts)
        for key, ts in snapshot.tombstones.items():
            here = self.txn.get(key, db=self._databases.tombstones)
            newest = max(ts, part(here)[0]) if here else ts
            self.txn.put(key, join(newest), db=self._databases.tombstones)
        counters.floor = max(counters.floor, info.marks_from)
        counters.watermark = max(counters.watermark, info.watermark)
        counters.sequence = max(counters.sequence, info.offset)

    def number(self, user_id: str) -> bytes:
        """A user's number, given now where there is none."""
        number = number_of(self.txn, self._databases, user_id)
        if number is None:
            self.counters.user += 1
            number = join(self.counters.user)
            self.txn.put(user_id.encode(), number, db=self._databases.users)
        return number

    def _state(self, number: bytes | None) -> State:
        return state_of(self.txn, self._databases, number, self._spec) or EMPTY

    def _put_state(self, number: bytes, state: State) -> None:
        self.txn.put(number, encode(state, self._spec), db=self._databases.states)

    def _put_mark(self, number: bytes, event: int, ts: int) -> None:
        self.txn.put(number + join(event), join(ts), db=self._databases.marks)

    def _erased_at(self, user_id: str) -> int:
        """Time of the user's erasure; -1 where there was none."""
        grave = self.txn.get(tombstone_key(user_id), db=self._databases.tombstones)
        return part(grave)[0] if grave else -1

    def _judge(
        self, user_id: str, places: list[int], batch: Batch, cutoff_ms: int, out: list[Outcome]
    ) -> tuple[State, list[int]]:
        """Fills in the outcomes of one user's rows; gives the state and the rows to merge."""
        erased_at = self._erased_at(user_id)
        number = number_of(self.txn, self._databases, user_id)
        state = self._state(number)
        # The ring knows its events even when their marks are gone, as after a changed timestamp.
        seen = set(state.ring["event"].tolist())
        fresh = []
        for row in places:
            event, ts = batch.events[row], batch.ts[row]
            if ts <= erased_at:
                out[row] = Outcome.ERASED
            elif event in seen or (number and self._stored(number, ts, event)):
                out[row] = Outcome.DUPLICATE
            elif ts < cutoff_ms:
                out[row] = Outcome.LATE
            else:
                out[row] = Outcome.ACCEPTED
                seen.add(event)
                fresh.append(row)
        return state, fresh

    def _stored(self, number: bytes, ts: int, event: int) -> bool:
        """Whether an event has its mark or, the mark being gone, its place in the history."""
        if self.txn.get(number + join(event), db=self._databases.marks) is not None:
            return True
        return self.txn.get(number + join(ts, event), db=self._databases.history) is not None

    def _record(self, batch: Batch, row: int) -> None:
        """Puts an accepted event into the history, the stream and the marks."""
        number, ts, event = self.number(batch.users[row]), batch.ts[row], batch.events[row]
        self.counters.sequence += 1
        self.counters.watermark = max(self.counters.watermark, ts)
        sequence, key = join(self.counters.sequence), number + join(ts, event)
        self.txn.put(key, sequence + batch.bodies[row], db=self._databases.history)
        self.txn.put(sequence, key, db=self._databases.stream)
        self._put_mark(number, event, ts)

    def _sweep(self, cutoff_ms: int, budget: int) -> None:
        """Looks at the next `budget` marks, round and round, and removes those before the cutoff.

        So a call does bounded work, no index by time is needed, and users who never come back
        are swept too. At two marks a new event, at most as many expired marks lie about as live.
        """
        with self.txn.cursor(self._databases.marks) as cursor:
            more = cursor.set_range(self.counters.hand)
            for _ in range(budget):
                if not more:
                    break
                if part(cursor.value())[0] < cutoff_ms:
                    self.counters.floor = cutoff_ms
                    cursor.delete()
                    more = bool(cursor.key())
                else:
                    more = cursor.next()
            self.counters.hand = cursor.key() if more else b""


def _all_after(state: State, erased_at: int, spec: StateSpec) -> bool:
    """Whether a state certainly holds nothing from before an erasure.

    Only a ring that is not yet full is the whole of the events; of others nobody can know.
    """
    return 0 < len(state.ring) < spec.ring and int(state.ring["ts"][0]) > erased_at
