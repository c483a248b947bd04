"""The bytes of many users' states at once: `encode(fold(...))` of each, without a call for each.

Most users have few events, and what folding those costs is the calls, not the events. So each step
is done for all users together: what is kept (last N of a kind, tiles) and how it is packed. Both
paths are held to the same bytes by a test; the layout is told in `codec`.

U users, N events, M records kept of width W bytes, S users that keep some of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import models.memory.facts as facts
import models.memory.ring as ring
import models.memory.tiles as tiles
from models.events import Interactions
from models.memory.codec import header
from models.memory.facts import Fact
from models.memory.histories import Histories
from models.memory.segments import expand
from models.memory.spec import StateSpec

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
MOST = 1 << 16
"""Users, events and facts together of one run, but for a user who has more."""
_LONG = 512
"""Bytes of an array from which one call for a user costs less than a place for every byte."""
_U4 = np.dtype("<u4")
"""Of lengths and checksums."""


def states(
    histories: Histories, said: Sequence[Sequence[Fact]], spec: StateSpec, *, most: int = MOST
) -> pa.ChunkedArray:
    """`(U,)` binary, the state of each user's whole history.

    Users are taken in runs, so that memory beyond the result is bounded and stays in the caches.

    Args:
        said: facts of each user.
        most: size of a run.

    Raises:
        ValueError: when a user's event occurs twice, or one does not fit into a tile.
    """
    if len(said) != len(histories.users):
        raise ValueError(f"facts of {len(said)} users for {len(histories.users)} histories")
    chunks = []
    for low, high in _runs(histories.offsets, said, most):
        offsets = histories.offsets[low : high + 1]
        records = histories.interactions[offsets[0] : offsets[-1]]
        chunks.append(_encoded(records, offsets - offsets[0], said[low:high], spec))
    return pa.chunked_array(chunks, pa.binary())


def _runs(offsets: Ints, said: Sequence[Sequence[Fact]], most: int) -> Iterator[tuple[int, int]]:
    """Ranges of users, with at most so many users, events and facts or of one user only."""
    size = _edges(np.diff(offsets) + 1 + np.fromiter(map(len, said), np.int64, len(said)))
    low = 0
    while low < len(said):
        high = max(int(size.searchsorted(size[low] + most, side="right")) - 1, low + 1)
        yield low, high
        low = high


def _encoded(
    records: Interactions, offsets: Ints, said: Sequence[Sequence[Fact]], spec: StateSpec
) -> pa.Array:
    """The states of one run; the offsets begin at 0."""
    told = {
        user: facts.to_bytes(facts.merge(some, (), spec.facts))
        for user, some in enumerate(said)
        if some
    }
    packed = [_pack(kept, of) for kept, of in _kept(records, offsets, spec)]
    begin = np.frombuffer(header(spec), np.uint8)
    sizes = np.full(len(said), len(begin) + _U4.itemsize)
    for arrays in packed:
        sizes += arrays.sizes
    for user, blob in told.items():
        sizes[user] += len(blob)
    edges = _edges(sizes)
    assert edges[-1] < 1 << 31, "a run's states have 32-bit offsets"
    out = np.zeros(edges[-1], np.uint8)
    place = edges[:-1].copy()
    _put(out, place, begin)
    place += len(begin)
    for arrays in packed:
        arrays.write(out, place)
        place += arrays.sizes
    for user, blob in told.items():
        out[place[user] : place[user] + len(blob)] = np.frombuffer(blob, np.uint8)
    _seal(out, edges)
    buffers = [None, pa.py_buffer(edges.astype(np.int32)), pa.py_buffer(out)]
    return pa.Array.from_buffers(pa.binary(), len(said), buffers)


def _seal(out: Bytes, edges: Ints) -> None:
    """Ends the bytes of each user with their checksum."""
    view = out.data
    ends = (edges[1:] - _U4.itemsize).tolist()
    sums = [zlib.crc32(view[low:high]) for low, high in zip(edges[:-1].tolist(), ends, strict=True)]
    _put(out, edges[1:] - _U4.itemsize, np.array(sums, _U4).view(np.uint8).reshape(-1, 4))


def _kept(
    records: Interactions, offsets: Ints, spec: StateSpec
) -> Iterator[tuple[NDArray[np.void], Ints]]:
    """The rings and the tiles: of each the records of all users, and where each user's begin.

    Args:
        records: `(N,)`, user after user, each in canonical order.
        offsets: `(U + 1,)`.
    """
    spoken = ring.is_said(records)
    if spoken.any():
        records, offsets = records[~spoken], _before(~spoken)[offsets]
    _refuse_twice(records, offsets)
    shown = ring.is_shown(records, spec)
    yield _last(records, offsets, ~shown, spec.ring)
    yield _last(records, offsets, shown, spec.shown)
    yield _last(records, offsets, ring.is_refused(records), spec.refused)
    yield _tiles(records, offsets, spec)


def _refuse_twice(records: Interactions, offsets: Ints) -> None:
    events = np.ascontiguousarray(records["event"])
    keys = np.sort(events)
    if not (keys[1:] == keys[:-1]).any():
        return
    # Two users may have one key.
    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((events, user))
    user, events = user[order], events[order]
    if ((user[1:] == user[:-1]) & (events[1:] == events[:-1])).any():
        raise ValueError(ring.TWICE)


def _last(
    records: Interactions, offsets: Ints, chosen: NDArray[np.bool_], capacity: int
) -> tuple[Interactions, Ints]:
    """`ring.last` of each user."""
    before = _before(chosen)[offsets]
    num = np.minimum(np.diff(before), capacity)
    edges = _edges(num)
    if edges[-1] == len(records):
        return records, edges
    places = np.flatnonzero(chosen)
    kept: Interactions = records.take(places[expand(before[1:] - num, before[1:])[1]])
    return kept, edges


def _tiles(records: Interactions, offsets: Ints, spec: StateSpec) -> tuple[tiles.Tiles, Ints]:
    """`tiles.fold` of each user."""
    num_users, num_levels = len(offsets) - 1, len(spec.levels)
    if not len(records):
        return tiles.empty(), np.zeros(num_users + 1, np.int64)
    ts, cell = np.ascontiguousarray(records["ts"]), tiles.cells(records)
    newest = int(ts.max()) // spec.levels[0].hop
    tiles.check(int(ts.min()), newest, int(records["interest"].max()), spec)
    lengths = np.diff(offsets)
    user = np.repeat(np.arange(num_users), lengths)
    num = np.zeros((num_users, num_levels), np.int64)
    found = []
    for level, tile in enumerate(spec.levels):
        index = ts // tile.hop
        # Who has no events repeats nothing, so it does not matter what is read for them.
        oldest = np.repeat(index[offsets[1:] - 1] - tile.keep, lengths)
        of, keys, count = _level(user, index, cell, index > oldest)
        num[:, level] = np.bincount(of, minlength=num_users)
        found.append((keys + tiles.pack(level, 0), count))
    edges = _edges(num.reshape(-1))
    kept = np.empty(edges[-1], tiles.TILE)
    for level, (keys, count) in enumerate(found):
        places = expand(edges[level:-1:num_levels], edges[level + 1 :: num_levels])[1]
        kept["key"][places], kept["count"][places] = keys, count
    return kept, edges[::num_levels]


def _level(user: Ints, index: Ints, cell: Ints, kept: NDArray[np.bool_]) -> tuple[Ints, Ints, Ints]:
    """User, key and count of the tiles of one level, by user and key.

    Args:
        user, index, cell: `(N,)` of the events, by user and index.
        kept: `(N,)` those that are not too old.
    """
    if not kept.all():
        user, index, cell = user[kept], index[kept], cell[kept]
    fresh = np.ones(len(user), bool)
    fresh[1:] = (user[1:] != user[:-1]) | (index[1:] != index[:-1])
    # Times are in order, so only the cells of one user's tile are to be sorted.
    span = np.cumsum(fresh) - 1
    mixed = span << tiles.CELL_BITS | cell
    mixed.sort(kind="stable")  # not the default: most is in order already, and Timsort sees it
    edges = tiles.edges(mixed)
    mixed, begins = mixed[edges[:-1]], np.flatnonzero(fresh)
    at = begins[mixed >> tiles.CELL_BITS]
    keys = tiles.pack(0, index[at], mixed & ((1 << tiles.CELL_BITS) - 1))
    return user[at], keys, np.diff(edges)


@dataclass(frozen=True)
class _Packed:
    """An array of each of U users, as `codec` packs one: length, mask, what differs not, the rest.

    An empty one is its length alone.
    """

    rows: Bytes
    """`(M, W)`."""
    some: Ints
    """`(S,)` the users whose array is not empty."""
    begins: Ints
    """`(S,)`."""
    num: Ints
    """`(S,)`."""
    differs: NDArray[np.bool_]
    """`(S, W)` whether a byte differs between a user's records."""
    sizes: Ints
    """`(U,)` bytes."""

    def write(self, out: Bytes, place: Ints) -> None:
        """Writes each user's array to its place `(U,)` among zeros."""
        place = place[self.some]
        num = self.num.astype(_U4).view(np.uint8).reshape(-1, _U4.itemsize)
        head = np.concatenate([num, np.packbits(self.differs, axis=1)], axis=1)
        _put(out, place, head)
        place = place + head.shape[1]
        width, several = self.rows.shape[1], self.differs.sum(axis=1)
        out[expand(place, place + width - several)[1]] = self.rows[self.begins][~self.differs]
        place = place + width - several
        long = several * self.num > _LONG
        for user in np.flatnonzero(long).tolist():
            begin = self.begins[user]
            columns = self.rows[begin : begin + self.num[user]].T[self.differs[user]]
            out[place[user] : place[user] + columns.size] = columns.reshape(-1)
        self._write_short(out, place, ~long)

    def _write_short(self, out: Bytes, place: Ints, short: NDArray[np.bool_]) -> None:
        """The bytes that differ, of the users whose `short` `(S,)` is set, to `place` `(S,)`."""
        # By user, byte and record: a step along a byte's records goes over a whole row.
        user, byte = (self.differs & short[:, None]).nonzero()
        num, width = self.num[user], self.rows.shape[1]
        edges = _edges(num)
        at = np.arange(edges[-1]) * width
        at += np.repeat(self.begins[user] * width + byte - edges[:-1] * width, num)
        size = self.differs.sum(axis=1) * self.num * short
        out[expand(place, place + size)[1]] = self.rows.reshape(-1)[at]


def _pack(kept: NDArray[np.void], offsets: Ints) -> _Packed:
    width = kept.dtype.itemsize
    rows = np.ascontiguousarray(kept).view(np.uint8).reshape(-1, width)
    num = np.diff(offsets)
    some = np.flatnonzero(num)
    begins = offsets[some]
    differs = _differs(rows, begins)
    sizes = np.full(len(num), _U4.itemsize)
    several = differs.sum(axis=1)
    sizes[some] += -(-width // 8) + width - several + several * num[some]
    return _Packed(rows, some, begins, num[some], differs, sizes)


def _differs(rows: Bytes, begins: Ints) -> NDArray[np.bool_]:
    """`(S, W)` the bytes that differ between the rows that begin at `begins` `(S,)`."""
    num, width = rows.shape
    if not num:
        return np.zeros((0, width), bool)
    # Eight bytes at a time: a pass over a user's rows costs more than what it does.
    padded = np.zeros((num, -(-width // 8) * 8), np.uint8)
    padded[:, :width] = rows
    words = np.ascontiguousarray(padded.view(np.uint64).T)
    words[:, 1:] ^= words[:, :-1].copy()
    words[:, begins] = 0
    found = np.ascontiguousarray(np.bitwise_or.reduceat(words, begins, axis=1).T)
    differs: NDArray[np.bool_] = found.view(np.uint8)[:, :width] != 0
    return differs


def _put(out: Bytes, place: Ints, rows: Bytes) -> None:
    """Writes a row, or one for each, `(W,)` or `(S, W)`, to each place `(S,)`."""
    out[place[:, None] + np.arange(rows.shape[-1])] = rows


def _edges(num: Ints) -> Ints:
    """`(U + 1,)` where ranges so long begin, and where the last one ends."""
    edges = np.zeros(len(num) + 1, np.int64)
    np.cumsum(num, out=edges[1:])
    return edges


def _before(chosen: NDArray[np.bool_]) -> Ints:
    """`(N + 1,)` how many are chosen before each place."""
    return _edges(chosen.astype(np.int64))
