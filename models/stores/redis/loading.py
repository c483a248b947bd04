"""Loading a snapshot, all or nothing.

A store of many partitions cannot be filled in one atomic step. So a mark stands in it as long as it
is half full, what fails is taken out again, and a store with the mark on it is not opened.
"""

from __future__ import annotations

from itertools import islice

from models.memory import StateSpec
from models.stores.judging import without
from models.stores.pending import pack
from models.stores.redis.erasing import Erasing
from models.stores.redis.layout import Keys, Stored
from models.stores.redis.reading import Reading
from models.stores.redis.scripts import RAISE
from models.stores.redis.server import Server, call
from models.stores.redis.writing import DONE, Change, Writing
from models.stores.said import bodies_of, facts_in
from models.stores.snapshot import Snapshot, SnapshotRow
from models.stores.tombstones import user_key

_USERS = 128  # loaded together
_EVENTS = 20_000  # of a user in one step: while it lasts, the server does nothing else


class Loading:
    """Fills a store without users."""

    def __init__(self, server: Server, keys: Keys, spec: StateSpec) -> None:
        self._server, self._keys, self._spec = server, keys, spec
        self._reading, self._writing = Reading(server, keys, spec), Writing(server, keys, spec)

    def load(self, snapshot: Snapshot) -> None:
        """Loads users, tombstones and counters.

        Raises:
            ValueError: for a damaged file, a store that is being loaded, or one in use.
        """
        if not self._server.one("HSETNX", self._keys.meta, "restoring", str(snapshot.path)):
            raise ValueError(f"a snapshot is being loaded already; {snapshot.path} was not")
        try:
            self._fill(snapshot)
        except BaseException:
            self._empty()
            self._unmark()
            raise
        self._unmark()

    def _fill(self, snapshot: Snapshot) -> None:
        rows, info = snapshot.rows(), snapshot.info
        while chunk := list(islice(rows, _USERS)):
            self._put(chunk)
        Erasing(self._reading, self._writing, self._spec).bury(snapshot.tombstones)
        floors = "floor", info.marks_from, "watermark", info.watermark
        metas = self._keys.everywhere("meta")
        self._server.run([call(RAISE, [meta], *floors) for meta in metas])
        self._server.run([call(RAISE, [self._keys.meta], "sequence", info.offset)])

    def _put(self, rows: list[SnapshotRow]) -> None:
        """Writes users, those with long histories in several steps."""
        held = self._reading.judged({row.user_id: () for row in rows})
        todo = {}
        for row in rows:
            graves = held[row.user_id].graves(row.user_id)
            state, gone = without(
                row.state, row.history, graves, spec=self._spec, facts=facts_in(row.said)
            )
            if state or not gone.all():
                history = row.history[~gone]
                stored = Stored.pack(history, bodies_of(history, row.said))
                todo[row.user_id] = pack(state, self._spec), stored.records(self._spec)
        low = 0
        while todo:
            changes = [
                Change(held[user_id], user_id, state, events=events[low : low + _EVENTS])
                for user_id, (state, events) in todo.items()
            ]
            if set(self._writing.commit(changes)) != {DONE}:
                raise ValueError("others write to the store while a snapshot is loaded; stop them")
            low += _EVENTS
            todo = {user_id: it for user_id, it in todo.items() if len(it[1]) > low}
            held = self._reading.judged(dict.fromkeys(todo, ()))

    def _empty(self) -> None:
        """Takes out what was loaded; of these users only late events were there before."""
        for page in self._reading.user_ids():
            changes = []
            for held in self._reading.whole([user_key(user_id) for user_id in page]):
                change = Change(held, held.user_id or "", state=b"")
                change.events_gone = held.stored.keys
                change.places_gone = held.stored.places(self._spec)
                changes.append(change)
            self._writing.commit(changes)

    def _unmark(self) -> None:
        self._server.one("HDEL", self._keys.meta, "restoring")
