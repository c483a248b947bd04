"""Writers of a Redis store that run in processes of their own."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from models.stores import Outcome
from models.stores.protocol import StoreUnavailableError
from tests.models.stores.redis_server import open_redis
from tests.models.stores.world import numbered

NUM_USERS = 5
LANE = 1_000_000  # each writer has numbers of its own, so it knows what it sent
numbered([0])  # pyarrow looks for pandas at its first use; here, so that forked processes need not


def write_on(folder: Path, url: str, first: int, acknowledged: Connection) -> None:
    """Sends events `first`, `first + 1`, ... in small groups; after each tells how far it got.

    All are made beforehand, so that a kill most likely meets the store at work. A server that is
    away is waited for.
    """
    table, cuts = numbered(range(first, first + 1000), NUM_USERS), np.random.default_rng(first)
    store = open_redis(folder, url=url)
    acknowledged.send_bytes(b"%d" % first)
    low = 0
    while low < len(table):
        high = min(low + int(cuts.integers(1, 20)), len(table))
        try:
            store.apply_many(table.slice(low, high - low))
        except StoreUnavailableError:
            time.sleep(0.02)
            continue
        low = high
        acknowledged.send_bytes(b"%d" % (first + low))


def write_range(folder: Path, url: str, first: int, last: int, outcomes: Connection) -> None:
    """Sends events in groups of seven and tells how many were accepted."""
    store = open_redis(folder, url=url)
    sent = [numbered(range(n, min(n + 7, last)), NUM_USERS) for n in range(first, last, 7)]
    outcomes.send_bytes(b"ready")
    accepted = sum(store.apply_many(table).count(Outcome.ACCEPTED) for table in sent)
    store.close()
    outcomes.send_bytes(b"%d" % accepted)
