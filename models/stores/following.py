"""The log of an embedded store, read by another process while the service goes on writing.

Opened read-only: nothing is made, claimed or locked against the writers, and no spec is needed,
for events are stored as they were received. A read transaction lasts for one page.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import lmdb
import pyarrow as pa

from models.stores.layout import FORMAT, Databases, tombstones_of
from models.stores.reading import late_in, stream_in

_MAP_SIZE = 1 << 40  # addresses, not bytes: no writer's map is larger, nor made so while we read


class EventLog(Protocol):
    """What a store tells of its events; every `MemoryStore` does."""

    def stream(self, after: int = 0) -> Iterator[tuple[int, pa.RecordBatch]]:
        """See `MemoryStore.stream`."""
        ...

    def late_events(self) -> Iterator[pa.RecordBatch]:
        """See `MemoryStore.late_events`."""
        ...

    def tombstones(self) -> dict[bytes, int]:
        """See `MemoryStore.tombstones`."""
        ...

    def close(self) -> None:
        """See `MemoryStore.close`."""
        ...


class LmdbLog:
    """The `EventLog` of an `LmdbStore` in a folder that belongs to another process.

    Raises:
        ValueError: when there is no store, or one of another layout.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._env = lmdb.open(
                str(path),
                readonly=True,
                create=False,
                map_size=_MAP_SIZE,
                max_dbs=len(Databases.names()),
            )
        except lmdb.Error as error:
            raise ValueError(f"{path} holds no store that can be read: {error}") from error
        try:
            with self._env.begin(db=self._env.open_db(b"meta", create=False)) as txn:
                layout = txn.get(b"format", b"").decode()
            if layout != FORMAT.decode():
                raise ValueError(
                    f"store {path} has layout {layout or 'none'}; this release reads layout "
                    f"{FORMAT.decode()}. Collect its events with the release that made it."
                )
            self._databases = Databases(
                *(self._env.open_db(name.encode(), create=False) for name in Databases.names())
            )
        except lmdb.Error as error:
            self._env.close()
            raise ValueError(f"{path} holds no store that can be read: {error}") from error
        except BaseException:
            self._env.close()
            raise

    def stream(self, after: int = 0) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Accepted events in the order of their commits; see `MemoryStore.stream`."""
        return stream_in(self._env.begin, self._databases, after)

    def late_events(self) -> Iterator[pa.RecordBatch]:
        """All late events; see `MemoryStore.late_events`."""
        return late_in(self._env.begin, self._databases)

    def tombstones(self) -> dict[bytes, int]:
        """All that was forgotten, as hashes; see `MemoryStore.tombstones`."""
        with self._env.begin() as txn:
            return tombstones_of(txn, self._databases)

    def close(self) -> None:
        """Lets go of the files."""
        self._env.close()
