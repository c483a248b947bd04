"""How an LMDB environment is laid out: its databases, their keys, the counters.

| database | key | value |
|---|---|---|
| users | user id, UTF-8 | user number |
| states | user number | see `models.stores.pending` |
| marks | user number, event key | ts |
| history | user number, ts, event key | sequence number, packed rest, JSON row |
| interests | user number, interest, ts, event key | |
| stream | sequence number | key in history |
| late | user number, event key | JSON row |
| tombstones | see `models.stores.tombstones` | ts |
| meta | `format`, `spec`, `counters` | |

A mark lasts as long as its event, so an event that is known is known for ever. Events that came
with a snapshot have sequence number 0 and no JSON row. `interests` leads `MemoryStore.nearest` to
the last events of a bucket; it holds what the ring is made of.

Numbers are 8 bytes, big-endian, so that keys sort as numbers do and all that is a user's is one
range. A user number is given once and never again; unlike a hash of the id it cannot collide, so no
user's mark hides another user's event, and an erasure reaches exactly one user. (An interest has 2
bytes.)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from itertools import takewhile
from typing import TypeAlias

import lmdb
import numpy as np
from numpy.typing import NDArray

from models.events import MAX_ID_BYTES
from models.stores.tombstones import Graves, user_key

FORMAT = b"3"
Txn: TypeAlias = "lmdb.Transaction[bytes]"  # the C class takes no subscript


@dataclass(frozen=True)
class Databases:
    """Handles of all databases of one environment."""

    users: lmdb._Database
    states: lmdb._Database
    marks: lmdb._Database
    history: lmdb._Database
    interests: lmdb._Database
    stream: lmdb._Database
    late: lmdb._Database
    tombstones: lmdb._Database
    meta: lmdb._Database

    @staticmethod
    def open(env: lmdb.Environment) -> Databases:
        """Opens them, and makes those that are missing."""
        return Databases(*(env.open_db(name.encode()) for name in Databases.names()))

    def num_bytes(self, txn: Txn) -> int:
        """Of all pages with records on them."""
        stats = [txn.stat(getattr(self, name)) for name in self.names()]
        return sum(
            stat["psize"] * (stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"])
            for stat in stats
        )

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
    """An unknown event before it is late, whatever the clock says: `marks_from` of the snapshot."""

    @staticmethod
    def read(txn: Txn, databases: Databases) -> Counters:
        """As the transaction sees them."""
        stored = txn.get(b"counters", db=databases.meta)
        if stored is None:
            return Counters()
        return Counters(*_COUNTERS.unpack(stored))

    def write(self, txn: Txn, databases: Databases) -> None:
        """Keeps them with the rest of the transaction."""
        txn.put(b"counters", _COUNTERS.pack(*astuple(self)), db=databases.meta)


def join(*numbers: int) -> bytes:
    """A key or value of numbers, each in 0..2^64-1."""
    return struct.pack(f">{len(numbers)}Q", *numbers)


def part(packed: bytes) -> tuple[int, ...]:
    """The reverse of `join`."""
    return struct.unpack(f">{len(packed) // 8}Q", packed)


NUMBER = np.dtype([("number", ">u8")])
BY_EVENT = np.dtype([("number", ">u8"), ("event", ">u8")])
BY_TIME = np.dtype([("number", ">u8"), ("ts", ">u8"), ("event", ">u8")])
BY_INTEREST = np.dtype([("number", ">u8"), ("interest", ">u2"), ("ts", ">u8"), ("event", ">u8")])


def keys_of(kind: np.dtype[np.void], *columns: NDArray[np.integer]) -> list[bytes]:
    """`(N,)` keys or values of `(N,)` columns, many at a time."""
    packed = np.empty(len(columns[0]), kind)
    for name, column in zip(kind.names or (), columns, strict=True):
        packed[name] = column
    keys: list[bytes] = packed.view(f"V{kind.itemsize}").tolist()
    return keys


def under(
    txn: Txn, database: lmdb._Database, prefix: bytes, *, reverse: bool = False
) -> Iterator[tuple[bytes, bytes]]:
    """All records whose keys begin with `prefix`, in order or from the last to the first.

    The prefix is not all 0xff bytes: numbers of users and interests never are.
    """
    with txn.cursor(database) as cursor:
        if reverse:
            beyond = cursor.set_range(_successor(prefix))
            found = cursor.iterprev() if (cursor.prev() if beyond else cursor.last()) else ()
        else:
            found = cursor.iternext() if cursor.set_range(prefix) else ()
        yield from takewhile(lambda item: item[0].startswith(prefix), found)


def _successor(prefix: bytes) -> bytes:
    """The least key after all that begin with `prefix`."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1])


def number_of(txn: Txn, databases: Databases, user_id: str) -> bytes | None:
    """The number of a user; None for an unknown one, and for what can be no user id."""
    key = user_id.encode()
    return txn.get(key, db=databases.users) if 0 < len(key) <= MAX_ID_BYTES else None


def graves_of(txn: Txn, databases: Databases, user_id: str) -> Graves:
    """The tombstones of a user."""
    found = under(txn, databases.tombstones, user_key(user_id))
    return Graves.of(user_id, [(key, part(ts)[0]) for key, ts in found])


def tombstones_of(txn: Txn, databases: Databases) -> dict[bytes, int]:
    """All tombstones."""
    return {key: part(ts)[0] for key, ts in under(txn, databases.tombstones, b"")}
