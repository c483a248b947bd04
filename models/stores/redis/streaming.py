"""The stream of all partitions as one, in the order of the sequence numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from models.stores.redis.layout import Keys, body_of, event_at
from models.stores.redis.scripts import FENCE
from models.stores.redis.server import Command, Server, call
from models.stores.rows import to_batch
from models.stores.tombstones import USER_BYTES

_PAGE = 512  # sequence numbers looked at together


@dataclass(frozen=True)
class Position:
    """How far the stream is closed: nothing will commit up to `sequence` any more."""

    sequence: int
    watermark: int
    floor: int


class Streaming:
    """Reads the stream."""

    def __init__(self, server: Server, keys: Keys) -> None:
        self._server, self._keys = server, keys

    def close(self) -> Position:
        """Closes the stream up to the last number given."""
        sequence = self._last()
        metas = self._keys.everywhere("meta")
        held = self._server.run([call(FENCE, [meta], sequence) for meta in metas])
        watermarks, floors = zip(*held, strict=True)
        return Position(
            sequence, max(int(w or 0) for w in watermarks), max(int(f or 0) for f in floors)
        )

    def follow(self, after: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """See `MemoryStore.stream`."""
        while after < self._last():
            last = self.close().sequence
            while after < last:
                end = min(after + _PAGE, last)
                found = sorted(self._ranges(after, end, "BYSCORE", "WITHSCORES"))
                after = end if found else self._next(end, last) - 1
                bodies = self._bodies(found)
                if bodies:
                    yield found[-1][0], to_batch(bodies)

    def _last(self) -> int:
        return int(self._server.one("HGET", self._keys.meta, "sequence") or 0)

    def _next(self, after: int, last: int) -> int:
        """The first number in use after one: what is forgotten or reserved in vain leaves gaps."""
        limit = ("BYSCORE", "LIMIT", 0, 1, "WITHSCORES")
        found = self._ranges(after, last, *limit)
        return min((number for number, _ in found), default=last + 1)

    def _ranges(self, after: int, end: int, *options: str | int) -> list[tuple[int, bytes]]:
        """Numbers in (after, end] and their members, partition by partition."""
        streams = self._keys.everywhere("stream")
        commands: list[Command] = [
            ("ZRANGE", stream, f"({after}", end, *options) for stream in streams
        ]
        flat = [part for found in self._server.run(commands) for part in found]
        return [(int(n), member) for member, n in zip(flat[::2], flat[1::2], strict=True)]

    def _bodies(self, found: Sequence[tuple[int, bytes]]) -> list[bytes]:
        """The rows; those forgotten in the meantime are left out."""
        by_user: dict[bytes, list[bytes]] = {}
        for _, member in found:
            by_user.setdefault(member[:USER_BYTES], []).append(event_at(member))
        commands: list[Command] = [
            ("HMGET", self._keys.one(user, "events"), *events) for user, events in by_user.items()
        ]
        values = {
            user + event: value
            for (user, events), many in zip(
                by_user.items(), self._server.run(commands), strict=True
            )
            for event, value in zip(events, many, strict=True)
        }
        return [body_of(v) for _, member in found if (v := values[member]) is not None]
