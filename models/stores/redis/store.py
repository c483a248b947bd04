"""The store of several machines: a `MemoryStore` in Redis 7 or Valkey, one server or a cluster.

Many processes may write at once, without locks. Where two write one user at the same moment, the
slower one reads again and judges again (`scripts.COMMIT`). What this store promises differs from
the embedded one in two points: `apply_many` is all or nothing for each user, not for the whole
call, and `get_many` and `snapshot` see each user whole, not all users at one moment. A snapshot and
a replay of the stream from its offset still equal the live store.

An event is acknowledged when it is in the server's append-only file on disk (`appendfsync always`);
calls that arrive together share one write to the disk. Replicas follow later: a failover may lose
what had not reached them.

All is held in memory: a cold history too. A full server (`maxmemory`) refuses writes and goes on
reading; one that evicts is refused. What is erased leaves the memory at once, and the append-only
file when that is next rewritten: by itself as it grows, or by BGREWRITEAOF.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from models.events import Interactions, Interests
from models.memory import State, StateSpec, tiles
from models.stores.batch import Batch
from models.stores.judging import check_recent
from models.stores.protocol import Clock, Outcome, Receipt, wall_clock
from models.stores.redis.config import RedisConfig
from models.stores.redis.erasing import Erasing
from models.stores.redis.layout import FORMAT, Keys
from models.stores.redis.loading import Loading
from models.stores.redis.reading import Reading
from models.stores.redis.server import Server
from models.stores.redis.streaming import Streaming
from models.stores.redis.writing import Writing
from models.stores.rows import history_of, to_batch
from models.stores.said import rows_of
from models.stores.snapshot import Snapshot, SnapshotInfo, SnapshotRow, write_snapshot
from models.stores.tombstones import Tombstones, user_key


class RedisStore:
    """A `MemoryStore` under a prefix of a server.

    Args:
        config: where the server is.
        spec: what a state keeps; a store stays with the spec that it was made with.
        interests: item keys to interest buckets; a catalogue's `interests`.
        clock: the present in milliseconds, for lateness and erasure.

    Raises:
        ValueError: for a server that would lose events, a store of another spec or layout, or one
            whose restore was cut off.
        StoreUnavailableError: when the server cannot be reached.
    """

    def __init__(
        self,
        config: RedisConfig,
        *,
        spec: StateSpec,
        interests: Interests | None = None,
        clock: Clock = wall_clock,
    ) -> None:
        self._config, self._spec = config, spec
        self._interests, self._clock = interests, clock
        self._keys = Keys(config.prefix)
        self._server = Server(config)
        self._reading = Reading(self._server, self._keys, spec)
        self._writing = Writing(self._server, self._keys, spec)
        self._erasing = Erasing(self._reading, self._writing, spec)
        self._streaming = Streaming(self._server, self._keys)
        try:
            self._claim()
        except BaseException:
            self._server.close()
            raise

    @property
    def num_users(self) -> int:
        """Users with a state."""
        counts = self._server.run([("ZCARD", key) for key in self._keys.everywhere("users")])
        return sum(counts)

    def get_many(self, user_ids: Sequence[str]) -> list[State]:
        """The states in the order asked for, each whole; `EMPTY` for an unknown user."""
        return self._reading.states(user_ids)

    def apply_many(self, events: pa.Table) -> list[Outcome]:
        """Stores events, of each user all or none; see `MemoryStore.apply_many`."""
        batch = Batch.of(events, self._interests)
        if not len(batch):
            return []
        tiles.fold(batch.interactions, self._spec)  # refuses now what could not be folded later
        return self._writing.apply(batch, self._clock() - self._config.dedup_horizon)

    def delete(self, user_id: str) -> Receipt:
        """Removes everything of a user; a tombstone stays. See `MemoryStore.delete`."""
        return self._erasing.forget(user_id, now_ms=self._clock())

    def forget(
        self, user_id: str, *, item_id: str | None = None, before_ms: int | None = None
    ) -> Receipt:
        """Removes an item or a time from a user's memory; see `MemoryStore.forget`."""
        if item_id is None and before_ms is None:
            raise ValueError("forget what? Give item_id or before_ms; `delete` forgets everything")
        return self._erasing.forget(
            user_id, now_ms=self._clock(), item_id=item_id, before_ms=before_ms
        )

    def tombstones(self) -> dict[bytes, int]:
        """All that was forgotten, as hashes; see `MemoryStore.tombstones`."""
        found: dict[bytes, int] = {}
        for users in self._reading.listed("buried"):
            for tombstones in self._reading.tombstones(users):
                found.update(tombstones)
        return found

    def bury(self, tombstones: Tombstones) -> int:
        """Forgets here what was forgotten elsewhere; see `MemoryStore.bury`."""
        return self._erasing.bury(tombstones)

    def history(self, user_id: str) -> pa.Table:
        """The user's events that this store received, late ones too, by time."""
        (held,) = self._reading.whole([user_key(user_id)])
        return history_of(held.stored.bodies, list(held.late.values()))

    def interactions(self, user_id: str) -> Interactions:
        """All events that count, in `(ts, event)` order; see `MemoryStore.interactions`."""
        (held,) = self._reading.whole([user_key(user_id)])
        return held.stored.interactions

    def nearest(
        self, user_id: str, *, interests: Sequence[int], recent: int, num: int
    ) -> Interactions:
        """The last events of all and of some interests; see `MemoryStore.nearest`."""
        check_recent(recent, self._spec)
        return self._reading.nearest(user_id, interests=interests, recent=recent, num=num)

    def late_events(self) -> Iterator[pa.RecordBatch]:
        """All late events, for the next rebuild."""
        for users in self._reading.listed("latecomers"):
            late = self._server.run([("HVALS", self._keys.one(user, "late")) for user in users])
            yield to_batch([body for bodies in late for body in bodies])

    def stream(self, after: int = 0) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Accepted events in the order of their sequence numbers; see `MemoryStore.stream`."""
        return self._streaming.follow(after)

    def scan(self) -> Iterator[tuple[str, State]]:
        """All users in order of id; each state is whole, users may change between them."""
        for user_ids in self._reading.user_ids():
            states = self._reading.states(user_ids)
            yield from (
                (user, state) for user, state in zip(user_ids, states, strict=True) if state
            )

    def snapshot(self, path: Path | str) -> SnapshotInfo:
        """Writes the store; events that come meanwhile may be in it. Equal stores, equal files."""
        # First the offset: what commits from now on is in the stream after it, and known again
        # by its mark where it is in a row as well. Then the tombstones: what they cover is gone
        # from the rows read after them.
        closed = self._streaming.close()
        return write_snapshot(
            path,
            self._rows(),
            spec=self._spec,
            marks_from=max(closed.floor, closed.watermark - self._config.dedup_horizon),
            offset=closed.sequence,
            tombstones=self.tombstones(),
        )

    def restore(self, path: Path | str) -> SnapshotInfo:
        """Loads a snapshot, all or nothing; see `MemoryStore.restore`."""
        snapshot, num_users = Snapshot(path, self._spec), self.num_users
        if num_users:
            raise ValueError(
                f"store {self._config.name} has {num_users} users, so snapshot {path} cannot "
                "be restored into it; restore into a store with a new prefix"
            )
        Loading(self._server, self._keys, self._spec).load(snapshot)
        return snapshot.info

    def close(self) -> None:
        """Lets go of the connections. The store cannot be used after it."""
        self._server.close()

    def _rows(self) -> Iterator[SnapshotRow]:
        for user_ids in self._reading.user_ids():
            users = [user_key(user_id) for user_id in user_ids]
            for user_id, held in zip(user_ids, self._reading.whole(users), strict=True):
                if held.state:
                    history = held.stored.interactions
                    said = rows_of(history, held.stored.bodies)
                    yield SnapshotRow(user_id, held.state, history, said)

    def _claim(self) -> None:
        """Marks a new store with its layout and spec; checks those of an old one."""
        meta, digest = self._keys.meta, self._spec.digest()
        if not self._server.one("EXISTS", meta):
            # Another process may have been faster, so nothing is written over.
            self._server.one("HSETNX", meta, "format", FORMAT)
            self._server.one("HSETNX", meta, "spec", digest)
        found = self._server.one("HMGET", meta, "format", "spec", "restoring")
        layout, spec, restoring = ((value or b"").decode() for value in found)
        if layout != FORMAT.decode():
            raise ValueError(
                f"store {self._config.name} has layout {layout}; this release reads layout "
                f"{FORMAT.decode()}. Open it with the release that made it."
            )
        if spec != digest:
            raise ValueError(
                f"store {self._config.name} was made under state spec {spec}, not {digest}. Go "
                "back to that spec in the config, or build a snapshot with `python -m "
                "jobs.prepare` and restore it into a store with a new prefix."
            )
        if restoring:
            raise ValueError(
                f"store {self._config.name} is being filled from {restoring}, or that was cut off. "
                "Wait for whoever does it; if nobody does, restore into a store with a new prefix "
                "and delete the keys of this one."
            )
