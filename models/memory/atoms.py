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

from dataclasses import dataclass, replace

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
    action: NDArray[np.uint8]
    interest: NDArray[np.uint16]
    count: Ints
    event: NDArray[np.uint64]
    """Key of the event known singly; 0 where there may be several."""

    def __len__(self) -> int:
        return len(self.row)

    def age_days(self, now_ms: Ints) -> NDArray[np.float64]:
        """Age of each atom's middle at its reading's `now_ms` `(R,)`, in days, never below zero.

        A tile that holds the present ends at the present: nothing in it is younger.
        """
        now = now_ms[self.row]
        middle = (self.start + np.minimum(self.end, np.maximum(now, 0))) / 2
        return np.maximum(now - middle, 0.0) / DAY_MS


def of_state(state: State, spec: StateSpec) -> Atoms:
    """The atoms of one memory: one reading."""
    single = [_single(kept) for kept in (state.ring, state.shown) if len(kept)]
    if not len(state.tiles):
        return _joined(single)
    level, index, cell = tiles.unpack(state.tiles["key"])
    left = state.tiles["count"].astype(np.int64)
    hop, keep = _levels(spec)
    start = index * hop[level]
    cut = (tiles.newest(level, index, spec) - keep + 1) * hop
    keys = tiles.pack(level, index, cell)
    inner = np.searchsorted(level, len(hop) - 1)
    # The spec makes coarse levels reach further back, so the parent of every tile is there.
    above = level[:inner] + 1
    parents = tiles.pack(above, start[:inner] // hop[above], cell[:inner])
    np.subtract.at(left, np.searchsorted(keys, parents), left[:inner].copy())
    end = np.minimum(start + hop[level], np.append(np.iinfo(np.int64).max, cut)[level])
    shown = _is_shown(cell, spec)
    for kept, apart in ((state.ring, False), (state.shown, True)):
        if not len(kept):
            continue
        ts = kept["ts"]
        finest = np.searchsorted(-cut, -ts)  # cuts fall from level to level
        known = finest < len(hop)
        own = tiles.pack(finest[known], ts[known] // hop[finest[known]], tiles.cells(kept)[known])
        np.subtract.at(left, np.searchsorted(keys, own), 1)
        # What no ring has of its kind lies before all that it has.
        end[shown == apart] = np.minimum(end[shown == apart], ts[0] + 1)
    some = left > 0
    row = np.zeros(int(some.sum()), np.int64)
    return _joined([*single, _grouped(row, start[some], end[some], cell[some], left[some])])


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
        parts = []
        for row in np.flatnonzero(late).tolist():
            seen = histories.seen(int(users[row]), int(as_of_ms[row]))
            atoms = of_state(fold(seen, self._spec), self._spec)
            parts.append(replace(atoms, row=np.full(len(atoms), row)))
        rows = np.flatnonzero((users >= 0) & ~late)
        low = histories.offsets[users[rows]]
        high = low + histories.num_arrived(users[rows], as_of_ms[rows])
        some = high > low
        rows, low, high = rows[some], low[some], high[some]
        newest_ms = histories.interactions["ts"][high - 1]
        edges = [kind.edges(low, high) for kind in self._kinds]
        for kind, (_, tail, last) in zip(self._kinds, edges, strict=True):
            at, place = expand(tail, last)
            parts.append(_single(kind.records[place], rows[at]))
        for kind, (first, tail, _) in zip(self._kinds, edges, strict=True):
            parts += kind.grouped(rows, first, tail, newest_ms)
        return _joined(parts)


def _levels(spec: StateSpec) -> tuple[Ints, Ints]:
    """`(L,)` hop in milliseconds and number of tiles kept."""
    return np.array([t.hop for t in spec.levels]), np.array([t.keep for t in spec.levels])


def _is_shown(cell: Ints, spec: StateSpec) -> NDArray[np.bool_]:
    """`(M,)` which cells count impressions that are kept apart from the ring."""
    shown: NDArray[np.bool_] = tiles.uncell(cell)[0] == IMPRESSION
    return shown & bool(spec.shown)


def _single(kept: Interactions, row: Ints | None = None) -> Atoms:
    ts = kept["ts"]
    return Atoms(
        row=np.zeros(len(kept), np.int64) if row is None else row,
        start=ts,
        end=ts,
        action=kept["action"],
        interest=kept["interest"],
        count=np.ones(len(kept), np.int64),
        event=kept["event"],
    )


def _grouped(row: Ints, start: Ints, end: Ints, cell: Ints, count: Ints) -> Atoms:
    action, interest = tiles.uncell(cell)
    return Atoms(row, start, end, action, interest, count, np.zeros(len(row), np.uint64))


def _joined(parts: list[Atoms]) -> Atoms:
    if len(parts) == 1:
        return parts[0]
    if not parts:
        nothing = np.zeros(0, np.int64)
        return _grouped(nothing, nothing, nothing, nothing, nothing)
    return Atoms(*(np.concatenate(column) for column in zip(*map(_columns, parts), strict=True)))


def _columns(atoms: Atoms) -> list[NDArray[np.generic]]:
    return list(vars(atoms).values())


class _Kind:
    """All events of one kind, impressions or the others, with their tiles at every level.

    P events of this kind, user after user by time. A tile's events stand side by side.
    """

    def __init__(self, histories: Histories, shown: bool, spec: StateSpec) -> None:
        records = histories.interactions
        places = np.flatnonzero(is_shown(records, spec) == shown)
        self.records = records[places]
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

    def grouped(self, rows: Ints, first: Ints, tail: Ints, newest_ms: Ints) -> list[Atoms]:
        """The atoms of events `[first, tail)` of each reading, level by level."""
        some = tail > first
        rows, first, tail, newest_ms = (x[some] for x in (rows, first, tail, newest_ms))
        if not len(rows):
            return []
        parts = []
        oldest, hi = self._ts[tail], tail  # the ring's oldest is the first after the tail
        upper = np.full(len(rows), np.iinfo(np.int64).max)
        for level, (hop, keep) in enumerate(zip(self._hop.tolist(), self._keep, strict=True)):
            cut = (newest_ms // hop - keep + 1) * hop
            lo = lower_bound(self._ts, first, hi, cut)
            for at, index, cell, count in self._zone(level, lo, hi):
                start = index * hop
                end = np.minimum(np.minimum(start + hop, upper[at]), oldest[at] + 1)
                parts.append(_grouped(rows[at], start, end, cell, count))
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
