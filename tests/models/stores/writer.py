"""Writers that run in processes of their own."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock

import numpy as np
import pyarrow as pa

from models.stores import Outcome
from tests.models.stores.world import mixed, numbered, open_lmdb

NUM_USERS = 5
mixed([0])  # pyarrow looks for pandas at its first use; here, so that forked processes need not


THREADS = 2


def write_on(folder: Path, firsts: list[int], seed: int, acknowledged: Connection) -> None:
    """Sends events from a few threads, whose commits are shared, until it is killed.

    Thread t sends its events `firsts[t]`, `firsts[t] + 1`, ... in small groups, and after each
    tells how far it got. All are made beforehand, so that a kill meets the store at work.
    """
    tables = [sent(thread, range(first, first + 400)) for thread, first in enumerate(firsts)]
    store = open_lmdb(folder, sync=True)
    cuts, telling = np.random.default_rng(seed).integers(1, 12, (THREADS, 400)), Lock()

    def write(thread: int) -> None:
        low = 0
        for size in cuts[thread].tolist():
            store.apply_many(tables[thread].slice(low, size))
            low = min(low + size, 400)
            with telling:
                acknowledged.send_bytes(b"%d %d" % (thread, firsts[thread] + low))

    acknowledged.send_bytes(b"0 0")  # nothing new yet
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(write, range(THREADS)))


def sent(thread: int, numbers: Iterable[int]) -> pa.Table:
    """A thread's events by number."""
    return mixed((n * THREADS + thread for n in numbers), NUM_USERS)


def erase_on(folder: Path, users: list[str], acknowledged: Connection) -> None:
    """Erases users one after the other; after each tells how many are gone."""
    store = open_lmdb(folder, sync=True)
    acknowledged.send_bytes(b"0")
    for place, user in enumerate(users):
        store.delete(user)
        acknowledged.send_bytes(b"%d" % (place + 1))


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
    store.apply_many(numbered(range(15_000), num_users=100))
    store.close()
    done.send_bytes(b"done")
