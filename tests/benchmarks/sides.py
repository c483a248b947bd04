"""The stores to measure, and beside each its own client putting the same bytes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Protocol

import lmdb
import numpy as np
from numpy.typing import NDArray

from models.memory import StateSpec
from models.stores import LmdbStore, MemoryStore, StoreConfig
from models.stores.layout import Databases, join

SPEC = StateSpec()
Records = dict[str, list[tuple[bytes, bytes]]]
"""What one commit puts: database to keys and values, sorted."""


def interests(items: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """Buckets without a catalogue."""
    return (items % np.uint64(SPEC.num_interests)).astype(np.uint16)


class Side(Protocol):
    """A store that lies in a folder while it is closed."""

    def open(self, folder: Path) -> MemoryStore:
        """As it is used: durable, with the default spec."""
        ...

    def copy(self, folder: Path, to: Path) -> None:
        """A second store of the same content."""
        ...

    def put(self, folder: Path, ours: Path, *, after: int, size: int) -> list[float]:
        """Seconds of each commit when the bare client writes what our store wrote.

        Args:
            folder: a copy of the store from before.
            ours: the store that has applied batches of `size` new events since.
            after: sequence number of the last event before.
        """
        ...

    def num_bytes(self, folder: Path) -> int:
        """What a closed store takes on the disk."""
        ...


class Lmdb:
    """Four records an event and one state a user; one transaction, one sync a batch."""

    def open(self, folder: Path) -> MemoryStore:
        config = StoreConfig(path=folder, map_size_bytes=1 << 36)
        return LmdbStore(config, spec=SPEC, interests=interests, clock=lambda: 0)

    def copy(self, folder: Path, to: Path) -> None:
        shutil.copytree(folder, to)

    def num_bytes(self, folder: Path) -> int:
        return (folder / "data.mdb").stat().st_size

    def put(self, folder: Path, ours: Path, *, after: int, size: int) -> list[float]:
        batches = list(self._records(ours, after, size))
        took = []
        with _environment(folder) as (env, databases):
            for records in batches:
                begin = time.perf_counter()
                with env.begin(write=True) as txn:
                    for name, items in records.items():
                        with txn.cursor(getattr(databases, name)) as cursor:
                            cursor.putmulti(items, append=name == "stream")
                took.append(time.perf_counter() - begin)
        return took

    def _records(self, folder: Path, after: int, size: int) -> Iterator[Records]:
        with _environment(folder) as (env, databases), env.begin() as txn:
            cursor = txn.cursor(databases.stream)
            assert cursor.set_range(join(after + 1))
            items = cursor.iternext()
            while stream := list(islice(items, size)):
                places = sorted(place for _, place in stream)
                history = [(p, txn.get(p, b"", db=databases.history)) for p in places]
                found = [(p[:8] + v[28:30][::-1] + p[8:], b"") for p, v in history]
                states = (
                    (n, txn.get(n, b"", db=databases.states)) for n in {p[:8] for p in places}
                )
                yield {
                    "history": history,
                    "marks": sorted((p[:8] + p[16:], p[8:16]) for p in places),
                    "interests": [
                        item
                        for item in sorted(found)
                        if txn.get(item[0], db=databases.interests) == b""
                    ],
                    "stream": stream,
                    "states": sorted(states),
                }


@contextmanager
def _environment(folder: Path) -> Iterator[tuple[lmdb.Environment, Databases]]:
    env = lmdb.open(str(folder), map_size=1 << 36, max_dbs=len(Databases.names()))
    try:
        yield env, Databases.open(env)
    finally:
        env.close()


SIDES: dict[str, Side] = {"LMDB": Lmdb()}
