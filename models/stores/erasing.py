"""Forgetting in a write transaction: the records go, the rest is folded anew, a tombstone stays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import lmdb
import numpy as np
from numpy.typing import NDArray

from models.memory import State
from models.stores.judging import tombstone_of, without
from models.stores.layout import (
    BY_EVENT,
    BY_INTEREST,
    graves_of,
    join,
    keys_of,
    number_of,
    part,
    under,
)
from models.stores.pending import unpack
from models.stores.protocol import Receipt
from models.stores.reading import Stored, stored_of
from models.stores.said import facts_in, rows_of
from models.stores.tombstones import Graves, Tombstones, by_user, user_key
from models.stores.tombstones import join as joined
from models.stores.writing import Writing


@dataclass
class _Held:
    """What a store has of one user, and how much of it was removed."""

    user_id: str
    number: bytes | None
    state: State
    stored: Stored
    graves: Graves
    num_bytes: int = 0


class Erasing:
    """Forgets within a write transaction."""

    def __init__(self, writing: Writing) -> None:
        self._writing = writing
        self._txn, self._databases = writing.txn, writing.databases

    def forget(
        self,
        user_id: str,
        *,
        now_ms: int,
        item_id: str | None = None,
        before_ms: int | None = None,
    ) -> Receipt:
        """Removes a user's events with an item, or before a time, or everything."""
        held = self._held(user_id)
        key, until = tombstone_of(
            user_id,
            held.stored.interactions,
            held.graves,
            now_ms=now_ms,
            state=held.state,
            item_id=item_id,
            before_ms=before_ms,
        )
        return self._bury(held, {key: until})

    def bury(self, tombstones: Tombstones) -> int:
        """Forgets what the tombstones cover; gives the number of events removed."""
        buried = by_user(tombstones)
        users = [user.decode() for user, _ in under(self._txn, self._databases.users, b"")]
        num_events = 0
        for user_id in users:
            found = buried.pop(user_key(user_id), None)
            if found:
                num_events += self._bury(self._held(user_id), found).num_events
        for prefix, found in buried.items():
            self._keep(prefix, found)
        return num_events

    def _held(self, user_id: str) -> _Held:
        txn, databases = self._txn, self._databases
        number = number_of(txn, databases, user_id)
        return _Held(
            user_id,
            number,
            unpack(number and txn.get(number, db=databases.states), self._writing.spec),
            stored_of(txn, databases, number),
            graves_of(txn, databases, user_id),
        )

    def _bury(self, held: _Held, tombstones: Tombstones) -> Receipt:
        """Puts tombstones on a user and removes what they cover."""
        self._keep(user_key(held.user_id), tombstones)
        graves = graves_of(self._txn, self._databases, held.user_id)
        num_events = num_marks = 0
        if held.number is not None:
            state, gone = without(
                held.state,
                held.stored.interactions,
                graves,
                spec=self._writing.spec,
                facts=facts_in(rows_of(held.stored.interactions, held.stored.bodies)),
            )
            num_events, num_marks = self._remove(held, gone)
            num_late, is_late = self._remove_late(held, graves)
            num_events += num_late
            if state != held.state:
                self._replace(held, state)
            if gone.all() and not state and not is_late:
                user = held.user_id.encode()
                held.num_bytes += self._pop(self._databases.users, [user])[1]
        return Receipt(
            num_events=num_events,
            num_marks=num_marks,
            num_bytes=held.num_bytes,
            erased_at_ms=max(graves.until, *(graves.items.get(key, -1) for key in tombstones)),
        )

    def _remove(self, held: _Held, gone: NDArray[np.bool_]) -> tuple[int, int]:
        """Takes events out of the history, its index, the stream and the marks."""
        rows, stored, databases = np.flatnonzero(gone).tolist(), held.stored, self._databases
        events = stored.interactions[gone]
        users = np.full(len(rows), part(held.number or b"")[0] if rows else 0, np.uint64)
        times = events["ts"], events["event"]
        counts = [
            self._pop(database, keys)
            for database, keys in (
                (databases.history, [stored.keys[row] for row in rows]),
                (databases.marks, keys_of(BY_EVENT, users, events["event"])),
                (databases.interests, keys_of(BY_INTEREST, users, events["interest"], *times)),
                (databases.stream, {stored.sequence(row) for row in rows} - {join(0)}),
            )
        ]
        held.num_bytes += sum(num_bytes for _, num_bytes in counts)
        return counts[0][0], counts[1][0]

    def _remove_late(self, held: _Held, graves: Graves) -> tuple[int, bool]:
        """Takes late events out; gives how many, and whether others are left."""
        found = list(under(self._txn, self._databases.late, held.number or b""))
        covered = [key for key, body in found if graves.covers_row(body)]
        num_events, num_bytes = self._pop(self._databases.late, covered)
        held.num_bytes += num_bytes
        return num_events, len(covered) < len(found)

    def _replace(self, held: _Held, state: State) -> None:
        number = held.number or b""
        if not state:
            held.num_bytes += self._pop(self._databases.states, [number])[1]
        else:
            self._writing.put_state(number, state)

    def _keep(self, prefix: bytes, tombstones: Tombstones) -> None:
        """Joins tombstones with those of the same user."""
        database = self._databases.tombstones
        old = {key: part(ts)[0] for key, ts in under(self._txn, database, prefix)}
        new = joined(old, tombstones)
        for key in old.keys() - new.keys():
            self._txn.delete(key, db=database)
        for key, ts in new.items():
            self._txn.put(key, join(ts), db=database)

    def _pop(self, database: lmdb._Database, keys: Iterable[bytes]) -> tuple[int, int]:
        """Removes records; gives how many there were, and their bytes."""
        num_records = num_bytes = 0
        for key in sorted(keys):
            value = self._txn.pop(key, db=database)
            if value is not None:
                num_records, num_bytes = num_records + 1, num_bytes + len(key) + len(value)
        return num_records, num_bytes
