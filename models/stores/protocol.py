"""What every memory store can do, and the words it answers with.

A store does what the memory algebra leaves to it: it makes sure that an event counts once, and
that what was forgotten stays so. It keeps each user's state, one dedup mark per event, the user's
whole history and the stream of all events, and changes them together or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import pyarrow as pa
from pydantic import Field

from models.config import DAY_MS, Config, Duration
from models.events import Interactions
from models.memory import State
from models.stores.snapshot import SnapshotInfo
from models.stores.tombstones import Tombstones

Clock = Callable[[], int]
"""Milliseconds since 1970."""


def wall_clock() -> int:
    """The present in milliseconds."""
    return time.time_ns() // 1_000_000


class StoreConfig(Config):
    """Where an embedded store lies, what it may hold, and for how long events may come."""

    path: Path
    """A folder; it is made when missing."""
    map_size_bytes: int = Field(1 << 30, ge=1 << 20)
    """Most that can be stored. The file takes only what is used, but at times twice of it: so that
    forgetting works in a full store. The same in every process."""
    dedup_horizon: Duration = Field(7 * DAY_MS, gt=0)
    """An unknown event older than this is late: it may be in the log behind a snapshot already."""
    sync: bool = True
    """Whether a call waits for the disk. Without it a power cut, not a crash, may lose events."""


class StoreFullError(RuntimeError):
    """A write did not fit: of no user is anything half-written, and reads go on."""


class StoreUnavailableError(RuntimeError):
    """The store's server cannot be reached or does not answer in time.

    Of a write it is not known whether it was kept. Send it again: what was kept is a duplicate.
    """


class Outcome(StrEnum):
    """What became of one event."""

    ACCEPTED = "accepted"
    """New: stored, marked and merged into its user's state."""
    DUPLICATE = "duplicate"
    """Known already: nothing changed."""
    LATE = "late"
    """Unknown, and older than the dedup horizon: kept for the next rebuild, not applied."""
    ERASED = "erased"
    """Covered by a tombstone of its user, or of the item there: not stored."""


@dataclass(frozen=True)
class Receipt:
    """What an erasure removed. Nothing in it names the user or an item."""

    num_events: int
    """Stored events, late ones included."""
    num_marks: int
    num_bytes: int
    """Keys and values of all records removed. A state that is folded anew is not one of them."""
    erased_at_ms: int
    """What was forgotten stays out up to here: the present, or the newest event if that is later;
    after `forget(before_ms=t)`, up to t - 1."""


class MemoryStore(Protocol):
    """One memory of many users, protocol version 2.

    Safe to share between threads; close it before a fork.
    """

    @property
    def num_users(self) -> int:
        """Users with a state."""
        ...

    def get_many(self, user_ids: Sequence[str]) -> list[State]:
        """The states in the order asked for; `EMPTY` for an unknown user.

        A store in one place gives all as of one moment; one of several machines each user whole.
        """
        ...

    def apply_many(self, events: pa.Table) -> list[Outcome]:
        """Stores events; durable when it returns.

        A store in one place keeps all of them or none; one of several machines of each user all
        or none.

        An event of action `state` says a fact; it is stored, marked and streamed like any other.
        Calls that come at the same time may share one commit; none fails for another's sake.

        Args:
            events: good rows of `models.events.validate`, of any users, in any order.

        Returns:
            One outcome per row. The first of two rows with one event id counts.

        Raises:
            ValueError: when the table is not in `SCHEMA`.
            StoreFullError: when it does not fit; send it again later.
            StoreUnavailableError: when the server is away; send it again.
        """
        ...

    def delete(self, user_id: str) -> Receipt:
        """Removes everything of a user. A tombstone stays, so that a replay brings nothing back."""
        ...

    def forget(
        self, user_id: str, *, item_id: str | None = None, before_ms: int | None = None
    ) -> Receipt:
        """Removes a user's events with one item, or all events before a time, facts among them.

        What is left is folded anew, so the state is that of somebody who never did the rest. A
        tombstone stays: of the item for events up to now, or of the time before `before_ms`.

        Args:
            item_id: the item to forget.
            before_ms: events with `ts < before_ms` go, facts said before it too.

        Raises:
            ValueError: when not exactly one of both is given, or `before_ms` lies in the future.
        """
        ...

    def tombstones(self) -> dict[bytes, int]:
        """All that was forgotten, as hashes: see `models.stores.tombstones`.

        A follower of the stream learns of erasures from here: `follower.bury(leader.tombstones())`
        before or after it has read the stream, as often as it likes.
        """
        ...

    def bury(self, tombstones: Tombstones) -> int:
        """Forgets here what was forgotten elsewhere, and keeps it out from now on.

        Order and repetition change nothing: of two tombstones of one thing the later one holds.
        Reads the ids of all users; call it with what is new.

        Returns:
            Number of events removed.
        """
        ...

    def history(self, user_id: str) -> pa.Table:
        """The user's events that this store received, late ones too, in `SCHEMA`, by time.

        Events that came with a restored snapshot are in `interactions` only, but for facts: their
        rows come along.
        """
        ...

    def interactions(self, user_id: str) -> Interactions:
        """All events that count, `(N,)` in `(ts, event)` order, with or without their rows here.

        The state is their fold. Facts are among them as records of action `state`, which `fold`
        leaves out; late events are not, they do not count yet.
        """
        ...

    def nearest(
        self, user_id: str, *, interests: Sequence[int], recent: int, num: int
    ) -> Interactions:
        """A few of a lifelong history, at a cost that does not grow with it.

        Args:
            interests: buckets of the query's or the candidates' interests.
            recent: so many last interactions are always there.
            num: so many last interactions of each bucket join them.

        Returns:
            `(n,)` distinct interactions in `(ts, event)` order, n at most
            `recent + num * len(interests)`. Facts are not among them.
        """
        ...

    def late_events(self) -> Iterator[pa.RecordBatch]:
        """All late events in `SCHEMA`, for the next rebuild."""
        ...

    def stream(self, after: int = 0) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Accepted events in the order of their commits, in `SCHEMA`.

        Each batch comes with the sequence number of its last event: give it as `after` to go on
        from there. Numbers are never used twice; forgotten events leave gaps. Ends where the
        stream ends. An erasure is no event: `tombstones` tells of it.
        """
        ...

    def scan(self) -> Iterator[tuple[str, State]]:
        """All users in order of id. Each state is whole; users may change between them."""
        ...

    def snapshot(self, path: Path | str) -> SnapshotInfo:
        """Writes the store to one Parquet file (see `models.stores.snapshot`).

        A store in one place writes one moment; one of several machines each user whole. A replay of
        the stream from the snapshot's offset gives the live store in both.

        Histories, the rows of facts and tombstones are in it; other rows, the stream and late
        events are not.
        """
        ...

    def restore(self, path: Path | str) -> SnapshotInfo:
        """Loads a snapshot, all or nothing. What was forgotten since it was written stays out.

        Raises:
            ValueError: when the store has users, or the file is damaged or of another spec.
        """
        ...

    def close(self) -> None:
        """Lets go of the files. The store cannot be used after it."""
        ...
