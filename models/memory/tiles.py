"""Tiles: whole-number counts in time tiles at several resolutions. Add, prune by index.

A tile is a record `(key, count)`; the key packs level, tile index, action and interest, so that
sorted keys are sorted tiles and equal keys add. Pruning keeps, per level, the tiles within `keep`
of that level's newest. That is a function of the multiset of events alone, so any order and any
split of the events give the same bytes.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    if not len(interactions):
        return empty()
    hop, keep, base = _levels(spec)
    ts = np.ascontiguousarray(interactions["ts"])
    index = ts // hop
    newest = index.max(axis=1, keepdims=True)
    check(int(ts.min()), int(newest[0, 0]), int(interactions["interest"].max()), spec)
    keys = (index << CELL_BITS | base | cells(interactions))[index > newest - keep]
    keys.sort()
    begins = edges(keys)
    return _tiles(keys[begins[:-1]], begins[1:] - begins[:-1])


def check(oldest_ms: int, newest: int, interest: int, spec: StateSpec) -> None:
    """Refuses what does not fit into the key of a tile.

    Args:
        oldest_ms: of some interactions.
        newest: index of their newest tile at the finest level.
        interest: the highest bucket of theirs.

    Raises:
        ValueError: when one of them does not fit.
    """
    if oldest_ms < 0 or newest >= 1 << _INDEX_BITS:
        raise ValueError(
            f"interactions from {oldest_ms} to {newest * spec.levels[0].hop} ms: tiles begin at "
            f"1970 and are at most 2^{_INDEX_BITS}; let `models.events.validate` take out what "
            "cannot be"
        )
    if interest >= spec.num_interests:
        raise ValueError(
            f"an interaction has interest bucket {interest}, the spec keeps {spec.num_interests}; "
            "give the catalogue and the memory the same num_interests"
        )


def merge(a: Tiles, b: Tiles, spec: StateSpec) -> Tiles:
    """The sum of both, pruned."""
    if not len(a) or not len(b):
        return a if len(a) else b
    keys, count = (np.concatenate((a[name], b[name])) for name in ("key", "count"))
    order = keys.argsort(kind="stable")  # two sorted runs: one pass
    keys = keys[order].view(np.int64)
    begins = edges(keys)[:-1]
    return _pruned(keys[begins], np.add.reduceat(count[order], begins, dtype=np.uint32), spec)


def _pruned(keys: Ints, count: NDArray[np.uint32], spec: StateSpec) -> Tiles:
    """Tiles without what has become too old."""
    newest = newest_ms(keys, spec)
    first = [
        pack(level, max(newest // tile.hop - tile.keep + 1, 0))
        for level, tile in enumerate(spec.levels)
    ]
    kept = keys >= np.array(first)[keys >> _LEVEL_SHIFT]
    return _tiles(keys[kept], count[kept])


def edges(keys: Ints) -> Ints:
    """Where each run of equal keys begins, and where the last one ends."""
    fresh = np.ones(len(keys) + 1, bool)
    np.not_equal(keys[1:], keys[:-1], out=fresh[1:-1])
    return fresh.nonzero()[0]


def _tiles(keys: Ints, count: NDArray[np.integer]) -> Tiles:
    tiles = np.empty(len(keys), TILE)
    tiles["key"], tiles["count"] = keys, count
    return tiles


@functools.lru_cache(maxsize=64)
def _levels(spec: StateSpec) -> tuple[Ints, Ints, Ints]:
    """`(L, 1)` hop in milliseconds, number of tiles kept, and the least key."""
    rows = [(tile.hop, tile.keep, pack(level, 0)) for level, tile in enumerate(spec.levels)]
    hop, keep, base = np.array(rows).T[..., None]
    return hop, keep, base


def cells(interactions: Interactions) -> Ints:
    """`(N,)` action and interest of each in one number."""
    cell: Ints = interactions["action"].astype(np.int64) << _INTEREST_BITS
    cell |= interactions["interest"]
    return cell


def pack(level: Any, index: Any, cell: Any = 0) -> Any:
    """The keys of tiles, signed, of integers or arrays; by level, then index, then cell."""
    # Levels stay below 8 in a signed number; the spec says so.
    return (level << _LEVEL_SHIFT) | (index << CELL_BITS) | cell


def unpack(keys: NDArray[np.uint64] | Ints) -> tuple[Ints, Ints, Ints]:
    """Level, index and cell of each key."""
    signed = keys.view(np.int64) if keys.flags.c_contiguous else keys.astype(np.int64)
    index = (signed >> CELL_BITS) & ((1 << _INDEX_BITS) - 1)
    return signed >> _LEVEL_SHIFT, index, signed & ((1 << CELL_BITS) - 1)


def uncell(cell: Ints) -> tuple[Ints, Ints]:
    """The reverse of `cells`: action and interest."""
    return cell >> _INTEREST_BITS, cell & ((1 << _INTEREST_BITS) - 1)


def newest_ms(keys: Ints, spec: StateSpec) -> int:
    """When the newest tile of some begins; in each level the newest is the one that holds it."""
    # Every level has tiles, and those of level 0 come first.
    newest: int = keys[keys.searchsorted(pack(1, 0)) - 1].item() >> CELL_BITS
    return newest * spec.levels[0].hop
