"""The stores to measure, and beside each its own client putting the same bytes."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Protocol

import lmdb
import numpy as np
from numpy.typing import NDArray

from models.memory import StateSpec
from models.stores import LmdbStore, MemoryStore, StoreConfig
from models.stores.layout import BY_EVENT, BY_INTEREST, Databases, join, keys_of
from models.stores.reading import Stored

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

    def digest(self, folder: Path) -> str:
        """Of the content of a closed store."""
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

    def digest(self, folder: Path) -> str:
        found = hashlib.blake2b()
        with _environment(folder) as (env, databases), env.begin() as txn:
            for name in Databases.names():
                if name != "meta":  # the bare side has no counters
                    for key, value in txn.cursor(getattr(databases, name)):
                        found.update(b"%d %d" % (len(key), len(value)) + key + value)
        return found.hexdigest()

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

            def found(name: str, keys: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
                with txn.cursor(getattr(databases, name)) as cursor:
                    return list(cursor.getmulti(sorted(keys)))

            cursor = txn.cursor(databases.stream)
            assert cursor.set_range(join(after + 1))
            items = cursor.iternext()
            while stream := list(islice(items, size)):
                history = found("history", (place for _, place in stream))
                stored = Stored.of(history).interactions
                users = np.frombuffer(b"".join(place[:8] for place, _ in history), ">u8")
                near = users, stored["interest"], stored["ts"], stored["event"]
                yield {
                    "history": history,
                    "marks": found("marks", keys_of(BY_EVENT, users, stored["event"])),
                    "interests": found("interests", keys_of(BY_INTEREST, *near)),
                    "stream": stream,
                    "states": found("states", {place[:8] for place, _ in history}),
                }


@contextmanager
def _environment(folder: Path) -> Iterator[tuple[lmdb.Environment, Databases]]:
    env = lmdb.open(str(folder), map_size=1 << 36, max_dbs=len(Databases.names()))
    try:
        yield env, Databases.open(env)
    finally:
        env.close()


SIDES: dict[str, Side] = {"LMDB": Lmdb()}
