"""Tombstones: what must stay out, written as hashes that name nobody.

| forgotten | key | value |
|---|---|---|
| a user, or a user's time up to t | `user_key`: 16 bytes | t |
| an item of a user, up to t | `item_key`: `user_key` and 8 bytes of user and item | t |

An event whose `ts` is at most t stays out, from wherever it comes: a replay, a restored snapshot, a
stream. A later one is new. Of two tombstones with one key the later holds, so sets of them join in
any order (a lattice). All of a user's begin with the same 16 bytes and lie together when sorted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import orjson
from numpy.typing import NDArray

from models.events import Interactions, key64

Tombstones = Mapping[bytes, int]
"""Keys to times in milliseconds since 1970."""

USER_BYTES = 16


def user_key(user_id: str) -> bytes:
    """Sixteen bytes that stand for a user where the id itself must not be kept."""
    digest = hashlib.blake2b(user_id.encode(), digest_size=USER_BYTES, person=b"ebb-tombstone")
    return digest.digest()


def item_key(user_id: str, item: int) -> bytes:
    """The key of one item of a user; `item` is `key64` of the item id."""
    text = user_id.encode() + b"\0" + item.to_bytes(8, "little")
    digest = hashlib.blake2b(text, digest_size=8, person=b"ebb-tombstone")
    return user_key(user_id) + digest.digest()


def join(*sets: Tombstones) -> dict[bytes, int]:
    """All tombstones; of two with one key the later one. An item's goes where the user's covers it.

    So the erasure of a user also takes the traces of the items that were forgotten before.
    """
    joined: dict[bytes, int] = {}
    for tombstones in sets:
        for key, ts in tombstones.items():
            joined[key] = max(ts, joined.get(key, ts))
    return {
        key: ts
        for key, ts in joined.items()
        if len(key) == USER_BYTES or ts > joined.get(key[:USER_BYTES], -1)
    }


def by_user(tombstones: Tombstones) -> dict[bytes, dict[bytes, int]]:
    """The tombstones of each user, named by `user_key`."""
    found: dict[bytes, dict[bytes, int]] = {}
    for key, ts in tombstones.items():
        found.setdefault(key[:USER_BYTES], {})[key] = ts
    return found


@dataclass(frozen=True)
class Graves:
    """The tombstones of one user."""

    user_id: str
    until: int = -1
    """All events up to here stay out; -1 where there is no such tombstone."""
    items: Mapping[bytes, int] = field(default_factory=dict)
    """`item_key` to the time until which the item's events stay out."""

    @staticmethod
    def of(user_id: str, found: Iterable[tuple[bytes, int]]) -> Graves:
        """From tombstones whose keys begin with the user's."""
        items = dict(found)
        return Graves(user_id, items.pop(user_key(user_id), -1), items)

    def __bool__(self) -> bool:
        return self.until >= 0 or bool(self.items)

    def covers(self, interactions: Interactions) -> NDArray[np.bool_]:
        """`(N,)` whether each event stays out."""
        covered: NDArray[np.bool_] = interactions["ts"] <= self.until
        if self.items:
            for item in np.unique(interactions["item"]).tolist():
                until = self.items.get(item_key(self.user_id, item))
                if until is not None:
                    covered |= (interactions["item"] == item) & (interactions["ts"] <= until)
        return covered

    def covers_one(self, ts: int, item: int) -> bool:
        """The same of one event."""
        if ts <= self.until:
            return True
        return bool(self.items) and ts <= self.items.get(item_key(self.user_id, item), -1)

    def covers_row(self, body: bytes) -> bool:
        """The same of an event as JSON, see `models.stores.rows`."""
        row = orjson.loads(body)
        return self.covers_one(row["ts"], key64(row["item_id"]) if row.get("item_id") else 0)

    def tombstones(self) -> dict[bytes, int]:
        """The reverse of `of`."""
        user = {user_key(self.user_id): self.until} if self.until >= 0 else {}
        return {**user, **self.items}
