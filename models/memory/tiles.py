"""Tiles: whole-number counts in time tiles at several resolutions. Add, prune by index.

A tile is a record `(key, count)`; the key packs level, tile index, action and interest, so that
sorted keys are sorted tiles and equal keys add. Pruning keeps, per level, the tiles within `keep`
of that level's newest. That is a function of the multiset of events alone, so any order and any
split of the events give the same bytes.

Reading takes each event once, at the finest level that still has it: the count of a coarse tile
less that of the finer tiles inside it is what the fine level has forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.events import Interactions
from models.memory.spec import StateSpec

TILE = np.dtype([("key", "<u8"), ("count", "<u4")])
Tiles = NDArray[np.void]

_INTEREST_BITS = 16
_ACTION_BITS = 8
_INDEX_BITS = 36
_CELL_BITS = _INTEREST_BITS + _ACTION_BITS
_LEVEL_SHIFT = _CELL_BITS + _INDEX_BITS


def empty() -> Tiles:
    """No tile at all."""
    return np.zeros(0, TILE)


def fold(interactions: Interactions, spec: StateSpec) -> Tiles:
    """The tiles of `(N,)` interactions, in any order.

    Raises:
        ValueError: when an interaction does not fit into the key of a tile.
    """
    _check(interactions, spec)
    cell = interactions["action"].astype(np.uint64) << np.uint64(_INTEREST_BITS)
    cell |= interactions["interest"].astype(np.uint64)
    keys = [
        _level_bits(level)
        | ((interactions["ts"] // tile.hop).astype(np.uint64) << np.uint64(_CELL_BITS))
        | cell
        for level, tile in enumerate(spec.levels)
    ]
    unique, counts = np.unique(np.concatenate(keys), return_counts=True)
    tiles = np.zeros(len(unique), TILE)
    tiles["key"], tiles["count"] = unique, counts
    return _prune(tiles, spec)


def _check(interactions: Interactions, spec: StateSpec) -> None:
    ts = interactions["ts"]
    if ts.min(initial=0) < 0 or ts.max(initial=0) // spec.levels[0].hop >= 1 << _INDEX_BITS:
        raise ValueError(
            f"interactions from {ts.min()} to {ts.max()} ms: tiles begin at 1970 and are at most "
            f"2^{_INDEX_BITS}; let `models.events.validate` take out what cannot be"
        )
    highest = int(interactions["interest"].max(initial=0))
    if highest >= spec.num_interests:
        raise ValueError(
            f"an interaction has interest bucket {highest}, the spec keeps {spec.num_interests}; "
            "give the catalogue and the memory the same num_interests"
        )


def merge(a: Tiles, b: Tiles, spec: StateSpec) -> Tiles:
    """The sum of both, pruned."""
    unique, where = np.unique(np.concatenate([a["key"], b["key"]]), return_inverse=True)
    tiles = np.zeros(len(unique), TILE)
    tiles["key"] = unique
    np.add.at(tiles["count"], where, np.concatenate([a["count"], b["count"]]))
    return _prune(tiles, spec)


def _prune(tiles: Tiles, spec: StateSpec) -> Tiles:
    kept = [
        part[_index(part) > _newest(part) - level.keep]
        for part, level in zip(_by_level(tiles, spec), spec.levels, strict=True)
    ]
    return np.concatenate(kept)


def _level_bits(level: int) -> np.uint64:
    return np.uint64(level << _LEVEL_SHIFT)


def _by_level(tiles: Tiles, spec: StateSpec) -> list[Tiles]:
    """The tiles a level at a time. Every level has some, or none has: each keeps its newest."""
    edges = [_level_bits(level) for level in range(1, len(spec.levels))]
    return np.split(tiles, np.searchsorted(tiles["key"], edges))


def _index(part: Tiles) -> NDArray[np.int64]:
    index = (part["key"] >> np.uint64(_CELL_BITS)) & np.uint64((1 << _INDEX_BITS) - 1)
    return index.astype(np.int64)


def _newest(part: Tiles) -> int:
    """The highest tile index of one level; keys are sorted, so it is the last."""
    return int(_index(part[-1:])[0]) if len(part) else 0


@dataclass(frozen=True)
class Atoms:
    """Every counted event once: `count` events of `action` and `interest` between two times.

    All fields are `(M,)`; `start` and `end` in milliseconds.
    """

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    action: NDArray[np.uint8]
    interest: NDArray[np.uint16]
    count: NDArray[np.int64]

    def age_days(self, now_ms: int) -> NDArray[np.float64]:
        """Age of each atom's middle, in days, never below zero.

        A tile that holds the present ends at the present: nothing in it is younger.
        """
        middle = (self.start + np.minimum(self.end, max(now_ms, 0))) / 2
        return np.maximum(now_ms - middle, 0.0) / 86_400_000


def atoms(tiles: Tiles, spec: StateSpec) -> Atoms:
    """The tiles as disjoint atoms; their counts add up to those of the coarsest level."""
    columns: list[list[NDArray[np.int64]]] = [[], [], [], []]
    finer: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]] | None = None
    cut = np.iinfo(np.int64).max  # finer levels hold every event at or after the cut
    for part, level in zip(_by_level(tiles, spec), spec.levels, strict=True):
        index = _index(part)
        cell = (part["key"] & np.uint64((1 << _CELL_BITS) - 1)).astype(np.int64)
        total = part["count"].astype(np.int64)
        left = total.copy()
        if finer is not None:
            start, fine_cell, fine_total = finer
            parents = ((start // level.hop) << _CELL_BITS) | fine_cell
            # The spec makes coarse levels reach further back, so each parent is there.
            np.subtract.at(left, np.searchsorted((index << _CELL_BITS) | cell, parents), fine_total)
        end = np.minimum((index + 1) * level.hop, cut)
        for column, values in zip(columns, (index * level.hop, end, cell, left), strict=True):
            column.append(values[left > 0])
        finer = (index * level.hop, cell, total)
        cut = (_newest(part) - level.keep + 1) * level.hop
    start, end, cell, count = (np.concatenate(column) for column in columns)
    return Atoms(
        start=start,
        end=end,
        action=(cell >> _INTEREST_BITS).astype(np.uint8),
        interest=(cell & ((1 << _INTEREST_BITS) - 1)).astype(np.uint16),
        count=count,
    )
