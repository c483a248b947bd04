"""How an LMDB environment is laid out: its databases, their keys, the counters.

| database | key | value |
|---|---|---|
| users | user id, UTF-8 | user number |
| states | user number | bytes of the memory codec |
| marks | user number, event key | ts |
| history | user number, ts, event key | sequence number, JSON row |
| stream | sequence number | key in history |
| late | user number, event key | JSON row |
| tombstones | `tombstone_key` of the user id | erased_at_ms |
| meta | `format`, `spec`, `counters` | |

Numbers are 8 bytes, big-endian, so that keys sort as numbers do and all that is a user's is one
range. A user number is given once and never again; unlike a hash of the id it cannot collide, so no
user's mark hides another user's event, and an erasure reaches exactly one user.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import TypeAlias

import lmdb

from models.events import MAX_ID_BYTES
from models.memory import State, StateSpec, decode

FORMAT = b"1"
Txn: TypeAlias = "lmdb.Transaction[bytes]"  # the C class takes no subscript


@dataclass(frozen=True)
class Databases:
    """Handles of all databases of one environment."""

    users: lmdb._Database
    states: lmdb._Database
    marks: lmdb._Database
    history: lmdb._Database
    stream: lmdb._Database
    late: lmdb._Database
    tombstones: lmdb._Database
    meta: lmdb._Database

    @staticmethod
    def open(env: lmdb.Environment) -> Databases:
        """Opens them, and makes those that are missing."""
        return Databases(*(env.open_db(name.encode()) for name in Databases.names()))

    @staticmethod
    def names() -> tuple[str, ...]:
        """In the order of the table above."""
        return tuple(Databases.__dataclass_fields__)


_COUNTERS = struct.Struct(">QQQQ")


@dataclass
class Counters:
    """What a transaction reads first and writes last."""

    user: int = 0
    """The last user number given."""
    sequence: int = 0
    """The last sequence number given."""
    watermark: int = 0
    """Time of the newest event applied, milliseconds."""
    floor: int = 0
    """Marks of events before it may be gone, so such an event is late whatever the clock says."""
    hand: bytes = b""
    """Key of the mark where the next sweep begins."""

    @staticmethod
    def read(txn: Txn, databases: Databases) -> Counters:
        """As the transaction sees them."""
        stored = txn.get(b"counters", db=databases.meta)
        if stored is None:
            return Counters()
        user, sequence, watermark, floor = _COUNTERS.unpack_from(stored)
        return Counters(user, sequence, watermark, floor, stored[_COUNTERS.size :])

    def write(self, txn: Txn, databases: Databases) -> None:
        """Keeps them with the rest of the transaction."""
        *numbers, hand = astuple(self)
        txn.put(b"counters", _COUNTERS.pack(*numbers) + hand, db=databases.meta)


def join(*numbers: int) -> bytes:
    """A key or value of numbers, each in 0..2^64-1."""
    return struct.pack(f">{len(numbers)}Q", *numbers)


def part(packed: bytes) -> tuple[int, ...]:
    """The reverse of `join`."""
    return struct.unpack(f">{len(packed) // 8}Q", packed)


def under(txn: Txn, database: lmdb._Database, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """All records whose keys begin with `prefix`, in order."""
    with txn.cursor(database) as cursor:
        more = cursor.set_range(prefix)
        while more and cursor.key().startswith(prefix):
            yield cursor.item()
            more = cursor.next()


def remove(txn: Txn, database: lmdb._Database, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The same, each removed once its turn is over."""
    with txn.cursor(database) as cursor:
        more = cursor.set_range(prefix)
        while more and cursor.key().startswith(prefix):
            yield cursor.item()
            cursor.delete()
            more = bool(cursor.key())


def number_of(txn: Txn, databases: Databases, user_id: str) -> bytes | None:
    """The number of a user; None for an unknown one, and for what can be no user id."""
    key = user_id.encode()
    return txn.get(key, db=databases.users) if 0 < len(key) <= MAX_ID_BYTES else None


def state_of(txn: Txn, databases: Databases, number: bytes | None, spec: StateSpec) -> State | None:
    """The state kept under a user number; None for no number, or a user with late events only."""
    blob = txn.get(number, db=databases.states) if number else None
    return decode(blob, spec) if blob else None
