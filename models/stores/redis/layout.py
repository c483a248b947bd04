"""How a store lies in Redis: its keys, and what is under them.

Keys of one partition, `<prefix>:{p17}:<name>`:

| key | type | holds |
|---|---|---|
| user:<u> | hash | `version`, `id` |
| state:<u> | string | see `models.stores.pending`; none: late events only |
| events:<u> | hash | event key: ts, packed rest, JSON row (none: it came with a snapshot) |
| places:<u> | sorted set | interest, ts, event key of what `nearest` may find; scores are 0 |
| late:<u> | hash | event key: JSON row |
| graves:<u> | hash | tombstones of the user, see `models.stores.tombstones` |
| stream | sorted set | `<u>` and event key; the score is the sequence number |
| users | sorted set | ids of the users with a state; scores are 0, so they sort by id |
| latecomers, buried | sorted sets | `<u>` of the users with late events, with tombstones |
| meta | hash | `watermark`, `floor`, `fence`, `epoch` |

Beside them one hash `<prefix>:meta`: `format`, `spec`, `sequence`, `restoring`.

`<u>` are the 16 bytes of `tombstones.user_key`, as hex digits in a key: no key that monitoring
shows names a person, and two users cannot share them (2^-64 for four billion users). The id itself
is a value, for `scan`.

Numbers are big-endian. An event's field in `events` is also its dedup mark: it lasts as long as the
history does, so it never goes too early. Nothing expires by the server's clock.

**Why partitions.** In a cluster a step is atomic only among keys of one hash tag. A tag per user
could not include the stream, which is of all users: an event could be in its user's history and
not in the stream. So users are dealt into 64 partitions, each with a stream of its own, and a write
of one user touches its partition only. 64 tags spread evenly over a few dozen nodes.

**Why sequence numbers come from one counter.** A follower wants one order and one number to go on
from. A writer reserves numbers first and commits later, so a number may be missing while a higher
one is there. Before a follower reads up to n, it puts a fence at n into each partition: what has
not committed by then is refused and takes new numbers. So what was read never changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.events import Interactions
from models.memory import StateSpec
from models.stores.judging import is_lifelong
from models.stores.rows import REST, pack, unpack

FORMAT = b"2"
NUM_PARTITIONS = 64  # part of the layout
_OWN = frozenset(("user", "state", "events", "places", "late", "graves"))
_HEAD = 8 + REST.itemsize  # ts and the packed rest stand before the JSON row
_PLACE = np.dtype([("interest", ">u2"), ("ts", ">u8"), ("event", ">u8")])


@dataclass(frozen=True)
class Keys:
    """The keys of a store."""

    prefix: str

    @property
    def meta(self) -> bytes:
        """The one key outside the partitions."""
        return f"{self.prefix}:meta".encode()

    def of(self, user: bytes, *names: str) -> list[bytes]:
        """Keys of a user, named by `user_key`, and of the user's partition."""
        stem = f"{self.prefix}:{{p{user[0] % NUM_PARTITIONS}}}:"  # the bytes are evenly spread
        tail = f":{user.hex()}"
        return [f"{stem}{name}{tail if name in _OWN else ''}".encode() for name in names]

    def one(self, user: bytes, name: str) -> bytes:
        """One of them."""
        return self.of(user, name)[0]

    def everywhere(self, name: str) -> list[bytes]:
        """A key that all users of a partition share, in every partition."""
        return [f"{self.prefix}:{{p{n}}}:{name}".encode() for n in range(NUM_PARTITIONS)]


@dataclass(frozen=True)
class Stored:
    """Events of the history as they are stored, `(N,)` each."""

    keys: list[bytes]
    values: list[bytes]
    interactions: Interactions

    @staticmethod
    def of(found: Mapping[bytes, bytes]) -> Stored:
        """One user's, in `(ts, event)` order; from event keys and values."""
        ordered = sorted(found, key=lambda event: (found[event][:8], event))
        values = [found[event] for event in ordered]
        ts, events = (np.frombuffer(b"".join(c), ">u8") for c in ([v[:8] for v in values], ordered))
        rests = [value[8:_HEAD] for value in values]
        return Stored(ordered, values, unpack(ts, events, rests))

    @staticmethod
    def pack(interactions: Interactions, bodies: Sequence[bytes]) -> Stored:
        """Anyone's, in the order given, with their JSON rows, which may be empty."""
        times, rests = numbers_of(interactions["ts"]), pack(interactions)
        values = [ts + rest + body for ts, rest, body in zip(times, rests, bodies, strict=True)]
        return Stored(numbers_of(interactions["event"]), values, interactions)

    @property
    def bodies(self) -> list[bytes]:
        """The events as JSON; empty where they came with a snapshot."""
        return [body_of(value) for value in self.values]

    def places(self, spec: StateSpec) -> list[bytes]:
        """Where `nearest` finds each event; empty for what it leaves out."""
        packed = np.empty(len(self.interactions), _PLACE)
        for name in _PLACE.names or ():
            packed[name] = self.interactions[name]
        places: list[bytes] = packed.view(f"V{_PLACE.itemsize}").tolist()
        kept = is_lifelong(self.interactions, spec).tolist()
        return [place if yes else b"" for place, yes in zip(places, kept, strict=True)]

    def records(self, spec: StateSpec) -> list[tuple[bytes, bytes, bytes]]:
        """Key, place and value of each event."""
        return list(zip(self.keys, self.places(spec), self.values, strict=True))


def body_of(value: bytes) -> bytes:
    """The JSON row in a stored event."""
    return value[_HEAD:]


def event_at(place: bytes) -> bytes:
    """The event key in a place, or in a member of the stream."""
    return place[-8:]


def numbers_of(column: NDArray[np.integer]) -> list[bytes]:
    """Event keys or times as they are stored."""
    packed: list[bytes] = column.astype(">u8").view("V8").tolist()
    return packed
