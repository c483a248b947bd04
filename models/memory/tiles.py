"""Tiles: whole-number counts in time tiles at several resolutions. Add, prune by index.

A tile is a record `(key, count)`; the key packs level, tile index, action and interest, so that
sorted keys are sorted tiles and equal keys add. Pruning keeps, per level, the tiles within `keep`
of that level's newest. That is a function of the multiset of events alone, so any order and any
split of the events give the same bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.events import Interactions
from models.memory.spec import StateSpec

TILE = np.dtype([("key", "<u8"), ("count", "<u4")])
Tiles = NDArray[np.void]

_INTEREST_BITS = 16
_ACTION_BITS = 8
_INDEX_BITS = 36
CELL_BITS = _INTEREST_BITS + _ACTION_BITS
_LEVEL_SHIFT = CELL_BITS + _INDEX_BITS
Ints = NDArray[np.int64]


def empty() -> Tiles:
    """No tile at all."""
    return np.zeros(0, TILE)


def fold(interactions: Interactions, spec: StateSpec) -> Tiles:
    """The tiles of `(N,)` interactions, in any order.

    Raises:
        ValueError: when an interaction does not fit into the key of a tile.
    """
    _check(interactions, spec)
    cell = cells(interactions)
    keys = [
        pack(level, interactions["ts"] // tile.hop, cell) for level, tile in enumerate(spec.levels)
    ]
    unique, counts = np.unique(np.concatenate(keys).view(np.uint64), return_counts=True)
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
    if not len(a) or not len(b):
        return a if len(a) else b
    unique, where = np.unique(np.concatenate([a["key"], b["key"]]), return_inverse=True)
    tiles = np.zeros(len(unique), TILE)
    tiles["key"] = unique
    np.add.at(tiles["count"], where, np.concatenate([a["count"], b["count"]]))
    return _prune(tiles, spec)


def _prune(tiles: Tiles, spec: StateSpec) -> Tiles:
    level, index, _ = unpack(tiles["key"])
    keep = np.array([tile.keep for tile in spec.levels])
    kept: Tiles = tiles[index > (newest(level, index, spec) - keep)[level]]
    return kept


def cells(interactions: Interactions) -> Ints:
    """`(N,)` action and interest of each in one number."""
    cell: Ints = interactions["action"].astype(np.int64) << _INTEREST_BITS
    cell |= interactions["interest"]
    return cell


def pack(level: ArrayLike, index: Ints, cell: Ints) -> Ints:
    """The keys of tiles; they sort by level, then index, then cell."""
    # Levels stay below 8 in a signed number; the spec says so.
    return (np.asarray(level, np.int64) << _LEVEL_SHIFT) | (index << CELL_BITS) | cell


def unpack(keys: NDArray[np.uint64]) -> tuple[Ints, Ints, Ints]:
    """Level, index and cell of each key."""
    signed = keys.view(np.int64) if keys.flags.c_contiguous else keys.astype(np.int64)
    index = (signed >> CELL_BITS) & ((1 << _INDEX_BITS) - 1)
    return signed >> _LEVEL_SHIFT, index, signed & ((1 << CELL_BITS) - 1)


def uncell(cell: Ints) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """The reverse of `cells`: action and interest."""
    interest = cell & ((1 << _INTEREST_BITS) - 1)
    return (cell >> _INTEREST_BITS).astype(np.uint8), interest.astype(np.uint16)


def newest(level: Ints, index: Ints, spec: StateSpec) -> Ints:
    """`(L,)` the highest index of each level; sorted tiles have it last. Every level has some."""
    return index[np.searchsorted(level, np.arange(1, len(spec.levels) + 1)) - 1]
