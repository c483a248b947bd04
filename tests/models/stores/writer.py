"""Writers that run in processes of their own."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from models.stores import Outcome
from tests.models.stores.world import numbered, open_lmdb

NUM_USERS = 5
numbered([0])  # pyarrow looks for pandas at its first use; here, so that forked processes need not


def write_on(folder: Path, first: int, seed: int, acknowledged: Connection) -> None:
    """Sends events `first`, `first + 1`, ... in small groups; after each tells how far it got.

    All are made beforehand, so that a kill most likely meets the store at work.
    """
    table, cuts = numbered(range(first, first + 1000), NUM_USERS), np.random.default_rng(seed)
    acknowledged.send_bytes(b"%d" % first)  # nothing new yet; the store may be opened or not
    store = open_lmdb(folder, sync=True)
    low = 0
    while low < len(table):
        high = low + int(cuts.integers(1, 20))
        store.apply_many(table.slice(low, high - low))
        low = min(high, len(table))
        acknowledged.send_bytes(b"%d" % (first + low))


def write_range(folder: Path, first: int, last: int, outcomes: Connection) -> None:
    """Sends events in groups of seven and tells how many were accepted."""
    store = open_lmdb(folder)
    sent = [numbered(range(n, min(n + 7, last)), NUM_USERS) for n in range(first, last, 7)]
    outcomes.send_bytes(b"ready")
    accepted = sum(store.apply_many(table).count(Outcome.ACCEPTED) for table in sent)
    store.close()
    outcomes.send_bytes(b"%d" % accepted)


def write_much(folder: Path, done: Connection) -> None:
    """Opens with a larger map than the tests do and writes beyond theirs."""
    store = open_lmdb(folder, map_size_bytes=1 << 26)
    store.apply_many(numbered(range(6000), num_users=100))
    store.close()
    done.send_bytes(b"done")
