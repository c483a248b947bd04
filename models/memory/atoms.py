"""Atoms, what readings are made of: every counted event once, as sharply as it is still known.

The events in the rings are known to the millisecond. Of the older ones the tiles know the count
between two times: each is taken at the finest level that still has it, so the count of a coarse
tile less that of the finer tiles inside it, less the ring's events, is what is left to it.

One function takes the atoms of a state, the other those of many point-in-time readings of whole
histories at once. Both give the same atoms in the same order, so that sums over them are equal to
the bit.

R readings, M atoms, L tile levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import models.memory.tiles as tiles
from models.config import DAY_MS
from models.events import Interactions
from models.memory.histories import Histories
from models.memory.ring import IMPRESSION, is_shown
from models.memory.segments import expand, lower_bound
from models.memory.spec import StateSpec
from models.memory.state import State, fold

Ints = NDArray[np.int64]
_NEVER = np.iinfo(np.int64).max
_Singles = tuple[Any, Interactions]
_Groups = tuple[Any, Ints, Ints, Ints, Ints]
"""Readings, start, end, cell and count of each."""


@dataclass(frozen=True)
class Atoms:
    """`count` events of one `action` and `interest` in `[start, end)`. All fields are `(M,)`.

    In each reading the rings' events come first, by time, then tiles by level, index and cell.
    """

    row: Ints
    """Which reading."""
    start: Ints
    """Milliseconds; of an event known singly its time, and `end` is the same."""
    end: Ints
    action: NDArray[Any]
    """Its code; whole numbers, like `interest`."""
    interest: NDArray[Any]
    count: Ints
    event: NDArray[np.uint64]
    """Key of the event known singly; 0 where there may be several."""

    def __len__(self) -> int:
        return len(self.row)

    def age_days(self, now_ms: Any) -> NDArray[np.float64]:
        """Age of each atom's middle at its reading's `now_ms`, in days, never below zero.

        A tile that holds the present ends at the present: nothing in it is younger.

        Args:
            now_ms: `(R,)`, or `()` when all are of one reading.
        """
        now = now_ms[self.row] if now_ms.shape else now_ms
        twice = 2 * now - self.start - np.minimum(self.end, now)
        age: NDArray[np.float64] = np.maximum(twice, 0) / (2 * DAY_MS)
        return age


def of_state(state: State, spec: StateSpec) -> Atoms:
    """The atoms of one memory: one reading."""
    return _filled(*_pieces(state, spec))


def _pieces(state: State, spec: StateSpec, row: int = 0) -> tuple[list[_Singles], list[_Groups]]:
    """The events that are known singly, and those that are not."""
    rings = [pair for pair in ((state.ring, spec.ring), (state.shown, spec.shown)) if len(pair[0])]
    # A ring that is not full has left nothing to the tiles; what is of everybody has no ring.
    full = [kept for kept, capacity in rings if len(kept) == capacity] if rings else [state.ring]
    groups: list[_Groups] = []
    if full and len(state.tiles):
        keys, count = (np.ascontiguousarray(state.tiles[name]) for name in ("key", "count"))
        keys = keys.view(np.int64)
        newest_ms = tiles.newest_ms(keys, spec)
        shown = _is_shown(keys) if len(rings) > 1 else None
        for kept in full:
            of = slice(None) if shown is None else shown == (kept is state.shown)
            tail = _tail(keys[of], count[of], kept, newest_ms, spec)
            groups += ((row, *group) for group in tail)
    return [(row, kept) for kept, _ in rings], groups


def _tail(
    keys: Ints, count: NDArray[np.uint32], kept: Interactions, newest_ms: int, spec: StateSpec
) -> Iterator[tuple[Ints, Ints, Ints, Ints]]:
    """What the tiles of one kind, sorted by key, know of the events before its full ring.

    A level is read up to where the ring begins, or the finer level where that begins earlier. What
    its last tile counts from there on is taken off: events of the ring, or the finer level's tiles.
    """
    oldest, cut = int(kept["ts"][0]) if len(kept) else newest_ms + spec.levels[0].hop, _NEVER
    uppers, edges = [], []
    for level, tile in enumerate(spec.levels):
        last = min(oldest, cut - 1) // tile.hop
        uppers.append((tile.hop, last, cut))
        edges.append((tiles.pack(level, 0), tiles.pack(level, last + 1)))
        cut = (newest_ms // tile.hop - tile.keep + 1) * tile.hop
    places = keys.searchsorted(edges).tolist()
    finer, finer_hop = 0, 1
    for level, ((low, high), (hop, last, cut)) in enumerate(zip(places, uppers, strict=True)):
        if low < high:
            end = (last + 1) * hop
            num: Any = 1
            if oldest < cut:
                cell = tiles.cells(kept[: kept["ts"].searchsorted(end)])
            else:
                inside = slice(finer, keys.searchsorted(tiles.pack(level - 1, end // finer_hop)))
                cell, num = tiles.unpack(keys[inside])[2], count[inside]
            key, left = keys[low:high], count[low:high].astype(np.int64)
            np.subtract.at(left, key.searchsorted(tiles.pack(level, last, cell)), num)
            some = left.nonzero()[0]
            _, index, cell = tiles.unpack(key[some])
            start = index * hop
            yield start, np.minimum(start + hop, min(cut, oldest + 1)), cell, left[some]
        finer, finer_hop = low, hop


class HistoryAtoms:
    """The atoms of readings of whole histories: of each what `of_state` gives for its `seen`.

    The work follows what a memory keeps, not how long a history is: tiles are counted once per
    user and pointed into. Only readings of users with late arrivals fold their events anew.
    """

    def __init__(self, histories: Histories, spec: StateSpec) -> None:
        self._histories, self._spec = histories, spec
        kinds = (False, True) if spec.shown else (False,)
        self._kinds = [_Kind(histories, shown, spec) for shown in kinds]

    def read(self, users: Ints, as_of_ms: Ints) -> Atoms:
        """The atoms of R readings.

        Args:
            users: `(R,)` places in `histories.users`; -1 for a reading without a history.
            as_of_ms: `(R,)`.
        """
        histories = self._histories
        late = np.zeros(len(users), bool)
        late[users >= 0] = histories.late[users[users >= 0]]
        singles: list[_Singles] = []
        groups: list[_Groups] = []
        for row in np.flatnonzero(late).tolist():
            seen = histories.seen(int(users[row]), int(as_of_ms[row]))
            own, several = _pieces(fold(seen, self._spec), self._spec, row)
            singles += own
            groups += several
        rows = np.flatnonzero((users >= 0) & ~late)
        low = histories.offsets[users[rows]]
        high = low + histories.num_arrived(users[rows], as_of_ms[rows])
        some = high > low
        rows, low, high = rows[some], low[some], high[some]
        newest_ms = histories.interactions["ts"][high - 1]
        for kind in self._kinds:
            first, tail, last = kind.edges(low, high)
            at, place = expand(tail, last)
            singles.append((rows[at], kind.records.take(place)))
            groups += kind.grouped(rows, first, tail, newest_ms)
        return _filled(singles, groups)


def _levels(spec: StateSpec) -> tuple[Ints, Ints]:
    """`(L,)` hop in milliseconds and number of tiles kept."""
    return np.array([t.hop for t in spec.levels]), np.array([t.keep for t in spec.levels])


def _is_shown(keys: Ints) -> NDArray[np.bool_]:
    """`(M,)` which tiles count impressions."""
    shown: NDArray[np.bool_] = tiles.uncell(tiles.unpack(keys)[2])[0] == IMPRESSION
    return shown


def _filled(singles: Sequence[_Singles], groups: Sequence[_Groups]) -> Atoms:
    """Events known singly, each array with its rows, and then the others."""
    num = sum(len(kept) for _, kept in singles) + sum(len(group[-1]) for group in groups)
    row, start, end, action, interest, count, event = np.zeros((7, num), np.int64)
    found = Atoms(row, start, end, action, interest, count, event.view(np.uint64))
    low = 0
    for of, kept in singles:
        part = slice(low, low := low + len(kept))
        row[part], start[part], end[part], count[part] = of, kept["ts"], kept["ts"], 1
        action[part], interest[part] = kept["action"], kept["interest"]
        found.event[part] = kept["event"]
    for of, begin, until, cell, several in groups:
        part = slice(low, low := low + len(several))
        row[part], start[part], end[part], count[part] = of, begin, until, several
        action[part], interest[part] = tiles.uncell(cell)
    return found


class _Kind:
    """All events of one kind, impressions or the others, with their tiles at every level.

    P events of this kind, user after user by time. A tile's events stand side by side.
    """

    def __init__(self, histories: Histories, shown: bool, spec: StateSpec) -> None:
        records = histories.interactions
        places = np.flatnonzero(is_shown(records, spec) == shown)
        self.records = records.take(places)
        self._places, self._ts = places, np.ascontiguousarray(self.records["ts"])
        self._capacity = spec.shown if shown else spec.ring
        self._hop, self._keep = _levels(spec)
        user = np.searchsorted(histories.offsets, places, side="right") - 1
        cell = tiles.cells(self.records)
        self._cell = cell
        self._tiles = [_Tiles(user, self._ts // hop, cell) for hop in self._hop.tolist()]

    def edges(self, low: Ints, high: Ints) -> tuple[Ints, Ints, Ints]:
        """For each reading of rows `[low, high)`: its first event here, in the ring, after it."""
        first = np.searchsorted(self._places, low)
        last = np.searchsorted(self._places, high)
        return first, np.maximum(first, last - self._capacity), last

    def grouped(self, rows: Ints, first: Ints, tail: Ints, newest_ms: Ints) -> list[_Groups]:
        """The atoms of events `[first, tail)` of each reading, level by level."""
        some = tail > first
        rows, first, tail, newest_ms = (x[some] for x in (rows, first, tail, newest_ms))
        if not len(rows):
            return []
        parts: list[_Groups] = []
        oldest, hi = self._ts[tail], tail  # the ring's oldest is the first after the tail
        upper = np.full(len(rows), _NEVER)
        for level, (hop, keep) in enumerate(zip(self._hop.tolist(), self._keep, strict=True)):
            cut = (newest_ms // hop - keep + 1) * hop
            lo = lower_bound(self._ts, first, hi, cut)
            for at, index, cell, count in self._zone(level, lo, hi):
                start = index * hop
                end = np.minimum(np.minimum(start + hop, upper[at]), oldest[at] + 1)
                parts.append((rows[at], start, end, cell, count))
            hi, upper = lo, cut
        return parts

    def _zone(self, level: int, lo: Ints, hi: Ints) -> list[tuple[Ints, Ints, Ints, Ints]]:
        """The tiles of one level over events `[lo, hi)`: the whole ones, then the cut one.

        `lo` is where a tile begins. The tile that `hi` cuts is put together from whole tiles of the
        finer levels, and single events at the last.
        """
        whole = self._tiles[level]
        begin = np.maximum(whole.first[hi], lo)
        at, place = whole.between(lo, begin)
        found = [(at, whole.index[place], whole.cell[place], whole.count[place])]
        pieces = []
        for finer in reversed(self._tiles[:level]):
            end = np.maximum(finer.first[hi], begin)
            at, place = finer.between(begin, end)
            pieces.append((at, finer.cell[place], finer.count[place]))
            begin = end
        at, place = expand(begin, hi)
        pieces.append((at, self._cell[place], np.ones(len(at), np.int64)))
        at, cell, count = (np.concatenate(column) for column in zip(*pieces, strict=True))
        if len(at):
            key, where = np.unique((at << tiles.CELL_BITS) | cell, return_inverse=True)
            total = np.bincount(where, count).astype(np.int64)
            at, cell = key >> tiles.CELL_BITS, key & ((1 << tiles.CELL_BITS) - 1)
            found.append((at, self._ts[hi[at]] // self._hop[level], cell, total))
        return found


class _Tiles:
    """The tiles of one level over whole histories: G tiles of P events."""

    def __init__(self, user: Ints, index: Ints, cell: Ints) -> None:
        num = len(user)
        fresh = np.ones(num, bool)
        fresh[1:] = (user[1:] != user[:-1]) | (index[1:] != index[:-1])
        begins = np.flatnonzero(fresh)
        self.first = np.append(begins[np.cumsum(fresh) - 1], num)
        """`(P + 1,)` where the span of time that holds each event begins."""
        span = np.cumsum(fresh) - 1
        # Spans are in order already, so each is sorted by cell within itself.
        key, self.count = np.unique((span << tiles.CELL_BITS) | cell, return_counts=True)
        self.cell = key & ((1 << tiles.CELL_BITS) - 1)
        self._begin = begins[key >> tiles.CELL_BITS]
        self.index = index[self._begin]

    def between(self, lo: Ints, hi: Ints) -> tuple[Ints, Ints]:
        """`(reading, place)` of the tiles over events `[lo, hi)`, both ends where spans begin."""
        return expand(np.searchsorted(self._begin, lo), np.searchsorted(self._begin, hi))
