"""Forgetting: the records go, the rest is folded anew, a tombstone stays; all in one step."""

from __future__ import annotations

from itertools import islice

import numpy as np

from models.memory import StateSpec
from models.stores.judging import tombstone_of, without
from models.stores.pending import pack
from models.stores.protocol import Receipt
from models.stores.redis.reading import Reading, Whole
from models.stores.redis.server import crowded
from models.stores.redis.writing import DONE, Change, Writing, attempts
from models.stores.said import facts_in, rows_of
from models.stores.tombstones import Graves, Tombstones, by_user, user_key
from models.stores.tombstones import join as joined

_PAGE = 128  # users whose whole histories are read at a time


class Erasing:
    """Forgets, each user in one atomic step."""

    def __init__(self, reading: Reading, writing: Writing, spec: StateSpec) -> None:
        self._reading, self._writing, self._spec = reading, writing, spec

    def forget(
        self,
        user_id: str,
        *,
        now_ms: int,
        item_id: str | None = None,
        before_ms: int | None = None,
    ) -> Receipt:
        """Removes a user's events with an item, or before a time, or everything."""
        for _ in attempts():
            (held,) = self._reading.whole([user_key(user_id)])
            key, until = tombstone_of(
                user_id,
                held.stored.interactions,
                held.graves(user_id),
                now_ms=now_ms,
                state=held.state,
                item_id=item_id,
                before_ms=before_ms,
            )
            change, receipt = burial(held, user_id, {key: until}, self._spec)
            if self._writing.commit([change]) == [DONE]:
                return receipt
        raise crowded()

    def bury(self, tombstones: Tombstones) -> int:
        """Forgets what the tombstones cover; gives the number of events removed."""
        buried = by_user(tombstones)
        users, num_events = iter(buried), 0
        while page := list(islice(users, _PAGE)):
            for _ in attempts():
                held = self._reading.whole(page)
                done = [burial(h, h.user_id, buried[h.user], self._spec) for h in held]
                replies = self._writing.commit([change for change, _ in done])
                settled = [reply == DONE for reply in replies]
                found = zip(done, settled, strict=True)
                num_events += sum(receipt.num_events for (_, receipt), yes in found if yes)
                page = [user for user, yes in zip(page, settled, strict=True) if not yes]
                if not page:
                    break
            else:
                raise crowded()
        return num_events


def burial(
    held: Whole, user_id: str | None, tombstones: Tombstones, spec: StateSpec
) -> tuple[Change, Receipt]:
    """What tombstones do to a user whose id is known wherever there is anything to remove."""
    stored, old = held.stored, held.state
    new = joined(held.tombstones, tombstones)
    graves = Graves.of(user_id or "", new.items())
    facts = facts_in(rows_of(stored.interactions, stored.bodies))
    state, gone = without(old, stored.interactions, graves, spec=spec, facts=facts)
    rows, places = np.flatnonzero(gone).tolist(), stored.places(spec)
    late = [event for event, body in held.late.items() if graves.covers_row(body)]
    change = Change(
        held,
        user_id or "",
        state=pack(state, spec),
        graves=new,
        graves_gone=[key for key in held.tombstones if key not in new],
        events_gone=[stored.keys[row] for row in rows],
        places_gone=[places[row] for row in rows],
        late_gone=late,
    )
    removed = [stored.keys[row] + stored.values[row] + places[row] for row in rows]
    removed += [event + held.late[event] for event in late]
    removed += [pack(old, spec)] if old and not state else []
    return change, Receipt(
        num_events=len(rows) + len(late),
        num_marks=len(rows),
        num_bytes=sum(map(len, removed)),
        erased_at_ms=max(new.get(key, graves.until) for key in tombstones),
    )
