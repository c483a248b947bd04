"""What every memory store can do, and the words it answers with.

A store does what the memory algebra leaves to it: it makes sure that an event counts once. It
keeps each user's state, one dedup mark per event, the user's own history and the stream of all
events, and changes them together or not at all.
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
from models.memory import State
from models.stores.snapshot import SnapshotInfo

Clock = Callable[[], int]
"""Milliseconds since 1970."""


def wall_clock() -> int:
    """The present in milliseconds."""
    return time.time_ns() // 1_000_000


class StoreConfig(Config):
    """Where an embedded store lies and how long it can tell a new event from a known one."""

    path: Path
    """A folder; it is made when missing."""
    map_size_bytes: int = Field(1 << 30, ge=1 << 20)
    """Most the store can grow to; the file takes only what is used. The same in every process."""
    dedup_horizon: Duration = Field(7 * DAY_MS, gt=0)
    """An event older than this cannot be proven new and is late."""
    sync: bool = True
    """Whether a call waits for the disk. Without it a power cut, not a crash, may lose events."""


class StoreFullError(RuntimeError):
    """A write did not fit and changed nothing; reads go on."""


class Outcome(StrEnum):
    """What became of one event."""

    ACCEPTED = "accepted"
    """New: stored, marked and merged into its user's state."""
    DUPLICATE = "duplicate"
    """Known already: nothing changed."""
    LATE = "late"
    """Older than the dedup horizon: kept for the next rebuild, not applied."""
    ERASED = "erased"
    """Not younger than its user's erasure: not stored."""


@dataclass(frozen=True)
class Receipt:
    """What an erasure removed. Nothing in it names the user."""

    num_events: int
    """Stored events, late ones included."""
    num_marks: int
    num_bytes: int
    """Keys and values of everything removed."""
    erased_at_ms: int
    """Events of the user up to here stay out: the present, or the newest event if that is later."""


class MemoryStore(Protocol):
    """One memory of many users. Safe to share between threads; close it before a fork."""

    @property
    def num_users(self) -> int:
        """Users with a state."""
        ...

    def get_many(self, user_ids: Sequence[str]) -> list[State]:
        """The states at one moment, in the order asked for; `EMPTY` for an unknown user."""
        ...

    def apply_many(self, events: pa.Table) -> list[Outcome]:
        """Stores events, all or none of them; durable when it returns.

        Args:
            events: good rows of `models.events.validate`, of any users, in any order.

        Returns:
            One outcome per row. The first of two rows with one event id counts.

        Raises:
            ValueError: when the table is not in `SCHEMA`.
            StoreFullError: when it does not fit. Nothing changed; send it again later.
        """
        ...

    def delete(self, user_id: str) -> Receipt:
        """Removes everything of a user. A tombstone stays, so that a replay brings nothing back."""
        ...

    def history(self, user_id: str) -> pa.Table:
        """The user's events that this store received, late ones too, in `SCHEMA`, by time.

        Events that came with a restored snapshot are not here: they are in the log behind it.
        """
        ...

    def late_events(self) -> Iterator[pa.RecordBatch]:
        """All late events in `SCHEMA`, for the next rebuild."""
        ...

    def stream(self, after: int = 0) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Accepted events in the order of their commits, in `SCHEMA`.

        Each batch comes with the sequence number of its last event: give it as `after` to go on
        from there. Numbers are never used twice; erased events leave gaps. Ends where the stream
        ends. An erasure is no event: whoever follows the stream has to be told of it too.
        """
        ...

    def scan(self) -> Iterator[tuple[str, State]]:
        """All users in order of id. Each state is whole; users may change between them."""
        ...

    def snapshot(self, path: Path | str) -> SnapshotInfo:
        """Writes the store as of one moment to one Parquet file (see `models.stores.snapshot`)."""
        ...

    def restore(self, path: Path | str) -> SnapshotInfo:
        """Loads a snapshot, all or nothing. Users erased since it was written stay out.

        Raises:
            ValueError: when the store has users, or the file is damaged or of another spec.
        """
        ...

    def close(self) -> None:
        """Lets go of the files. The store cannot be used after it."""
        ...
