"""Loading a snapshot in a write transaction, past all that was forgotten."""

from __future__ import annotations

from itertools import islice

import numpy as np

from models.stores.erasing import Erasing
from models.stores.judging import without
from models.stores.layout import graves_of, join
from models.stores.said import bodies_of, facts_in
from models.stores.snapshot import Snapshot, SnapshotRow
from models.stores.writing import Writing

_USERS = 512  # whose events are put at a time: many puts in one call


def load(writing: Writing, snapshot: Snapshot) -> None:
    """Fills a store without users; the tombstones of both keep out what they cover."""
    Erasing(writing).bury(snapshot.tombstones)
    rows = snapshot.rows()
    while chunk := list(islice(rows, _USERS)):
        _put(writing, chunk)
    counters, info = writing.counters, snapshot.info
    counters.floor = max(counters.floor, info.marks_from)
    counters.watermark = max(counters.watermark, info.watermark)
    counters.sequence = max(counters.sequence, info.offset)


def _put(writing: Writing, rows: list[SnapshotRow]) -> None:
    numbers: list[bytes] = []
    bodies: list[bytes] = []
    histories = []
    for row in rows:
        graves = graves_of(writing.txn, writing.databases, row.user_id)
        state, gone = without(
            row.state, row.history, graves, spec=writing.spec, facts=facts_in(row.said)
        )
        if not state and gone.all():
            continue
        number = writing.number(row.user_id)
        writing.put_state(number, state)
        histories.append(row.history[~gone])
        bodies += bodies_of(histories[-1], row.said)
        numbers += [number] * len(histories[-1])
    if not numbers:
        return
    zeros = [join(0)] * len(numbers)
    writing.put_history(numbers, np.concatenate(histories), zeros, bodies)
