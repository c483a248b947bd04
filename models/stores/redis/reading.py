"""What the server has of a user, read in one atomic step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import compress, islice
from typing import Any

import numpy as np

from models.events import Interactions
from models.memory import State, StateSpec
from models.memory import ring as rings
from models.stores.pending import unpack
from models.stores.redis.layout import Keys, Stored, event_at
from models.stores.redis.scripts import READ, WHOLE
from models.stores.redis.server import Command, Server, call
from models.stores.tombstones import Graves, user_key

_PAGE = 256  # users read at a time


@dataclass(frozen=True)
class Held:
    """A user as found. Whoever writes the user tells `version` and `epoch` again."""

    user: bytes
    """Named by `user_key`."""
    version: bytes
    epoch: bytes
    floor: int
    tombstones: Mapping[bytes, int]

    def graves(self, user_id: str) -> Graves:
        """The tombstones of the user."""
        return Graves.of(user_id, self.tombstones.items())


@dataclass(frozen=True)
class Judged(Held):
    """What is needed to judge some events, and to lay them behind the state."""

    head: bytes
    """The first two bytes of the state, see `models.stores.pending`; empty for none."""
    known: frozenset[int]
    """Those of the events that are in the history."""


@dataclass(frozen=True)
class Whole(Held):
    """All that there is of a user."""

    state: State
    """`EMPTY` for none."""
    user_id: str | None
    """None where there is nothing but tombstones."""
    stored: Stored
    late: Mapping[bytes, bytes]
    """Event key to JSON row."""


class Reading:
    """Reads users."""

    def __init__(self, server: Server, keys: Keys, spec: StateSpec) -> None:
        self._server, self._keys, self._spec = server, keys, spec

    def judged(self, events: Mapping[str, Sequence[int]]) -> dict[str, Judged]:
        """What is needed to judge the event keys of some users, by user id."""
        users = {user_id: user_key(user_id) for user_id in events}
        names = "user", "state", "events", "graves", "meta"
        commands = [
            call(READ, self._keys.of(users[user_id], *names), *map(_bytes_of, wanted))
            for user_id, wanted in events.items()
        ]
        replies = self._server.run(commands)
        return {
            user_id: Judged(
                *_shared(user, reply),
                head=reply[4],
                known=frozenset(compress(events[user_id], reply[5])),
            )
            for (user_id, user), reply in zip(users.items(), replies, strict=True)
        }

    def whole(self, users: Sequence[bytes]) -> list[Whole]:
        """All there is of users named by `user_key`."""
        names = "user", "state", "events", "graves", "meta", "late"
        replies = self._server.run([call(WHOLE, self._keys.of(user, *names)) for user in users])
        return [
            Whole(
                *_shared(user, reply),
                state=unpack(reply[4], self._spec),
                user_id=reply[5].decode() if reply[5] else None,
                stored=Stored.of(_pairs(reply[6])),
                late=_pairs(reply[7]),
            )
            for user, reply in zip(users, replies, strict=True)
        ]

    def states(self, user_ids: Sequence[str]) -> list[State]:
        """Each is whole; between two of them others may write."""
        commands: list[Command] = [
            ("GET", self._keys.one(user_key(user_id), "state")) for user_id in user_ids
        ]
        return [unpack(blob, self._spec) for blob in self._server.run(commands)]

    def packed(self, users: Sequence[Held]) -> list[bytes | None]:
        """The states of users as they were held; None for those whom others wrote since."""
        commands: list[Command] = []
        for held in users:
            user, state = self._keys.of(held.user, "user", "state")
            # The version last: if it is still the same, so was the state before it.
            commands += [("GET", state), ("HGET", user, "version")]
        replies = self._server.run(commands)
        return [
            state if version == held.version else None
            for held, state, version in zip(users, replies[::2], replies[1::2], strict=True)
        ]

    def tombstones(self, users: Sequence[bytes]) -> list[dict[bytes, int]]:
        """Of users named by `user_key`."""
        graves = [self._keys.one(user, "graves") for user in users]
        found = self._server.run([("HGETALL", key) for key in graves])
        return [{key: int(ts) for key, ts in one.items()} for one in found]

    def nearest(
        self, user_id: str, *, interests: Sequence[int], recent: int, num: int
    ) -> Interactions:
        """See `MemoryStore.nearest`."""
        user = user_key(user_id)
        (state,) = self.states([user_id])
        last = state.ring[len(state.ring) - min(recent, len(state.ring)) :]
        if not state or num < 1:
            return last
        places = self._keys.one(user, "places")
        commands = [_last_of(places, interest, num) for interest in sorted(set(interests))]
        events = [event_at(place) for found in self._server.run(commands) for place in found]
        if not events:
            return last
        values = self._server.one("HMGET", self._keys.one(user, "events"), *events)
        # An event may have been forgotten between the two.
        known = {event: value for event, value in zip(events, values, strict=True) if value}
        found = Stored.of(known).interactions
        more = found[~np.isin(found["event"], last["event"])]
        return rings.canonical(np.concatenate([more, last]))

    def user_ids(self) -> Iterator[list[str]]:
        """Ids of the users with a state in order, in pages."""
        found = merge(*(self._members(key) for key in self._keys.everywhere("users")))
        while page := list(islice(found, _PAGE)):
            yield [user_id.decode() for user_id in page]

    def listed(self, name: str) -> Iterator[list[bytes]]:
        """The users in a list that every partition has, in pages."""
        for key in self._keys.everywhere(name):
            found = self._members(key)
            while page := list(islice(found, _PAGE)):
                yield page

    def _members(self, key: bytes) -> Iterator[bytes]:
        """All members of a sorted set whose scores are 0, in order."""
        after = b"-"
        while True:
            command = ("ZRANGE", key, after, "+", "BYLEX", "LIMIT", 0, _PAGE)
            found: list[bytes] = self._server.one(*command)
            yield from found
            if len(found) < _PAGE:
                return
            after = b"(" + found[-1]


def _shared(user: bytes, reply: Sequence[Any]) -> tuple[bytes, bytes, bytes, int, dict[bytes, int]]:
    """The fields of `Held`, from the reply of either script."""
    version, epoch, floor, graves = reply[:4]
    tombstones = {key: int(ts) for key, ts in _pairs(graves).items()}
    return user, version or b"", epoch or b"", int(floor or 0), tombstones


def _bytes_of(event: int) -> bytes:
    return event.to_bytes(8, "big")


def _pairs(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _last_of(places: bytes, interest: int, num: int) -> Command:
    """The last places of an interest: those that begin with its two bytes."""
    prefix = interest.to_bytes(2, "big")
    beyond, least = b"(" + prefix + b"\xff" * 17, b"[" + prefix
    return ("ZRANGE", places, beyond, least, "BYLEX", "REV", "LIMIT", 0, num)
