"""The embedded store: one LMDB environment, no server, many processes.

LMDB has one writer at a time and readers that never wait; a transaction is whole and durable or it
never happened, whenever the process dies. So an event, its mark and the new state need no log of
our own. Each commit waits for the disk once: apply many events in one call, or from many threads,
whose calls share commits.

Read transactions are short, except while a snapshot is written: an open one keeps freed pages from
being used again. What is erased leaves every database at once, but may stay in free pages of the
file until those are written over. To overwrite it first would not help: LMDB never writes on a
page in use, it writes a new one. A copy made by `mdb_copy -c` is free of it, and so is a new store
that a snapshot is restored into.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pyarrow as pa

from models.events import SCHEMA, Interactions, Interests
from models.memory import State, StateSpec, tiles
from models.stores.batch import Batch
from models.stores.committer import Committer
from models.stores.erasing import Erasing
from models.stores.judging import check_recent
from models.stores.layout import (
    FORMAT,
    Counters,
    Databases,
    Txn,
    number_of,
    tombstones_of,
    under,
)
from models.stores.loading import load
from models.stores.protocol import (
    Clock,
    Outcome,
    Receipt,
    StoreConfig,
    StoreFullError,
    wall_clock,
)
from models.stores.reading import (
    body_of,
    late_in,
    nearest_to,
    page_of,
    state_of,
    stored_of,
    stream_in,
)
from models.stores.rows import checked, history_of
from models.stores.said import rows_of
from models.stores.snapshot import Snapshot, SnapshotInfo, SnapshotRow, write_snapshot
from models.stores.tombstones import Tombstones
from models.stores.writing import Writing

_MAX_READERS = 512  # threads and processes that read at one moment


class LmdbStore:
    """A `MemoryStore` in a folder. A process opens a folder once and shares the object.

    Args:
        config: where it lies and how much it may hold.
        spec: what a state keeps; a store stays with the spec that it was made with.
        interests: item keys to interest buckets; a catalogue's `interests`.
        clock: the present in milliseconds, for lateness and erasure.

    Raises:
        ValueError: when the folder holds a store of another spec or layout.
    """

    def __init__(
        self,
        config: StoreConfig,
        *,
        spec: StateSpec,
        interests: Interests | None = None,
        clock: Clock = wall_clock,
    ) -> None:
        self._config, self._spec = config, spec
        self._interests, self._clock = interests, clock
        self._committer = Committer(self._apply)
        config.path.mkdir(parents=True, exist_ok=True)
        self._env = lmdb.open(
            str(config.path),
            map_size=2 * config.map_size_bytes,  # LMDB writes a page anew to take a record off it
            max_dbs=len(Databases.names()),
            max_readers=_MAX_READERS,
            sync=config.sync,
            metasync=config.sync,
        )
        try:
            self._env.reader_check()  # frees the slots of readers that were killed
            self._claim()
            self._databases = Databases.open(self._env)
        except BaseException:
            self._env.close()
            raise

    @property
    def num_users(self) -> int:
        """Users with a state."""
        with self._begin() as txn:
            return txn.stat(self._databases.states)["entries"]

    def get_many(self, user_ids: Sequence[str]) -> list[State]:
        """The states at one moment, in the order asked for; `EMPTY` for an unknown user."""
        with self._begin() as txn:
            numbers = [number_of(txn, self._databases, user_id) for user_id in user_ids]
            return [state_of(txn, self._databases, number, self._spec) for number in numbers]

    def apply_many(self, events: pa.Table) -> list[Outcome]:
        """Stores events, all or none of them; see `MemoryStore.apply_many`."""
        events = checked(events)
        return self._committer.commit(events) if len(events) else []

    def delete(self, user_id: str) -> Receipt:
        """Removes everything of a user; a tombstone stays. See `MemoryStore.delete`."""
        with self._write() as writing:
            return Erasing(writing).forget(user_id, now_ms=self._clock())

    def forget(
        self, user_id: str, *, item_id: str | None = None, before_ms: int | None = None
    ) -> Receipt:
        """Removes an item or a time from a user's memory; see `MemoryStore.forget`."""
        if item_id is None and before_ms is None:
            raise ValueError("forget what? Give item_id or before_ms; `delete` forgets everything")
        with self._write() as writing:
            return Erasing(writing).forget(
                user_id, now_ms=self._clock(), item_id=item_id, before_ms=before_ms
            )

    def tombstones(self) -> dict[bytes, int]:
        """All that was forgotten, as hashes; see `MemoryStore.tombstones`."""
        with self._begin() as txn:
            return tombstones_of(txn, self._databases)

    def bury(self, tombstones: Tombstones) -> int:
        """Forgets here what was forgotten elsewhere; see `MemoryStore.bury`."""
        with self._write() as writing:
            return Erasing(writing).bury(tombstones)

    def history(self, user_id: str) -> pa.Table:
        """The user's events that this store received, late ones too, by time."""
        with self._begin() as txn:
            number = number_of(txn, self._databases, user_id)
            if number is None:
                return SCHEMA.empty_table()
            values = [value for _, value in under(txn, self._databases.history, number)]
            late = [value for _, value in under(txn, self._databases.late, number)]
        return history_of([body_of(value) for value in values], late)

    def interactions(self, user_id: str) -> Interactions:
        """All events that count, in `(ts, event)` order; see `MemoryStore.interactions`."""
        with self._begin() as txn:
            number = number_of(txn, self._databases, user_id)
            return stored_of(txn, self._databases, number).interactions

    def nearest(
        self, user_id: str, *, interests: Sequence[int], recent: int, num: int
    ) -> Interactions:
        """The last events of all and of some interests; see `MemoryStore.nearest`."""
        check_recent(recent, self._spec)
        with self._begin() as txn:
            return nearest_to(
                txn,
                self._databases,
                number_of(txn, self._databases, user_id),
                spec=self._spec,
                interests=interests,
                recent=recent,
                num=num,
            )

    def late_events(self) -> Iterator[pa.RecordBatch]:
        """All late events, for the next rebuild."""
        return late_in(self._begin, self._databases)

    def stream(self, after: int = 0) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Accepted events in the order of their commits; see `MemoryStore.stream`."""
        return stream_in(self._begin, self._databases, after)

    def scan(self) -> Iterator[tuple[str, State]]:
        """All users in order of id; each state is whole, users may change between them."""
        after = b""
        while True:
            with self._begin() as txn:
                found = page_of(txn, self._databases.users, after)
                states = [state_of(txn, self._databases, number, self._spec) for _, number in found]
            if not found:
                return
            for (user, _), state in zip(found, states, strict=True):
                if state:
                    yield user.decode(), state
            after = found[-1][0]

    def snapshot(self, path: Path | str) -> SnapshotInfo:
        """Writes the store as of one moment; two equal stores write equal files."""
        with self._begin() as txn:
            counters = Counters.read(txn, self._databases)
            recent = counters.watermark - self._config.dedup_horizon
            return write_snapshot(
                path,
                self._rows(txn),
                spec=self._spec,
                marks_from=max(counters.floor, recent),
                offset=counters.sequence,
                tombstones=tombstones_of(txn, self._databases),
            )

    def restore(self, path: Path | str) -> SnapshotInfo:
        """Loads a snapshot, all or nothing; see `MemoryStore.restore`."""
        snapshot = Snapshot(path, self._spec)
        with self._write(is_bounded=True) as writing:
            num_users = writing.txn.stat(self._databases.users)["entries"]
            if num_users:
                raise ValueError(
                    f"store {self._config.path} has {num_users} users, so snapshot {path} cannot "
                    "be restored into it; restore into a store with a new path"
                )
            load(writing, snapshot)
        return snapshot.info

    def close(self) -> None:
        """Lets go of the files. The store cannot be used after it."""
        self._env.close()

    def _claim(self) -> None:
        """Marks a new store with its layout and spec; checks those of an old one."""
        digest, meta = self._spec.digest().encode(), self._env.open_db(b"meta")
        with self._begin() as txn:
            is_new = txn.get(b"format", db=meta) is None
        if is_new:
            with self._begin(write=True) as txn:
                # Another process may have been faster, so nothing is written over.
                txn.put(b"format", FORMAT, overwrite=False, db=meta)
                txn.put(b"spec", digest, overwrite=False, db=meta)
        with self._begin() as txn:
            layout, spec = (txn.get(key, b"", db=meta).decode() for key in (b"format", b"spec"))
        if layout != FORMAT.decode():
            raise ValueError(
                f"store {self._config.path} has layout {layout}; this release reads layout "
                f"{FORMAT.decode()}. Set `path` to a new folder and restore a snapshot into it, "
                "built with `python -m jobs.prepare` and `python -m jobs.release` from all events, "
                "those of this store's stream too. The release that made the store still reads it."
            )
        if spec != self._spec.digest():
            raise ValueError(
                f"store {self._config.path} was made under state spec {spec}, not "
                f"{self._spec.digest()}. Go back to that spec in the config, or build a snapshot "
                "with `python -m jobs.prepare` and restore it into a store with a new path."
            )

    @contextmanager
    def _begin(self, *, write: bool = False) -> Iterator[Txn]:
        try:
            with self._env.begin(write=write) as txn:
                yield txn
        except lmdb.MapFullError as error:
            raise self._full() from error
        except lmdb.MapResizedError as error:
            raise RuntimeError(
                f"store {self._config.path} was made larger by another process than "
                f"`map_size_bytes` here, {self._config.map_size_bytes}: set the same value in "
                "every process and open it again."
            ) from error

    def _apply(self, events: pa.Table) -> list[Outcome]:
        batch = Batch.of(events, self._interests)
        tiles.fold(batch.interactions, self._spec)  # refuses now what could not be folded later
        with self._write(is_bounded=True) as writing:
            return writing.apply(batch, self._clock() - self._config.dedup_horizon)

    @contextmanager
    def _write(self, *, is_bounded: bool = False) -> Iterator[Writing]:
        """A write transaction; a bounded one must leave the store within `map_size_bytes`."""
        with self._begin(write=True) as txn:
            writing = Writing(txn, self._databases, self._spec)
            yield writing
            writing.close()
            if is_bounded and self._databases.num_bytes(txn) > self._config.map_size_bytes:
                raise self._full()

    def _full(self) -> StoreFullError:
        return StoreFullError(
            f"store {self._config.path} is full: raise `map_size_bytes`, now "
            f"{self._config.map_size_bytes}, and open it again, in every process that uses it. "
            "Nothing of this call was kept; reading and forgetting go on."
        )

    def _rows(self, txn: Txn) -> Iterator[SnapshotRow]:
        for user, number in under(txn, self._databases.users, b""):
            state = state_of(txn, self._databases, number, self._spec)
            if state:  # some users have late events only
                stored = stored_of(txn, self._databases, number)
                said = rows_of(stored.interactions, stored.bodies)
                yield SnapshotRow(user.decode(), state, stored.interactions, said)
