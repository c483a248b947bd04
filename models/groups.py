"""Which events belong to one request, and what came of it.

N events of some users in history order, G groups, O outcomes, S shown items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.events import Interactions
from models.memory import Histories
from models.memory.ring import IMPRESSION
from models.memory.sessions import starts

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Groups:
    """Events by the request that they belong to."""

    of: Ints
    """`(N,)` the group of each event; -1 for none."""
    first: Ints
    """`(G,)` the first event of each group."""


def by_event(num: int) -> Groups:
    """Every event for itself."""
    return Groups(np.arange(num), np.arange(num))


def by_session(histories: Histories, gap_ms: int) -> Groups:
    """All events of a session, by its id or else by a silence that ends it.

    Two sessions of one user may go on at once, and their events interleave: a session that was
    named is one request all the same.
    """
    records = histories.interactions
    begins = starts(records, gap_ms)
    begins[histories.offsets[:-1][histories.offsets[:-1] < len(records)]] = True
    first = np.flatnonzero(begins)
    named = np.flatnonzero(records["session"][first])
    runs = np.arange(len(first))
    earliest = _earliest(_owners(histories, first[named]), records["session"][first[named]])
    runs[named] = named[earliest]
    return Groups(runs[np.cumsum(begins) - 1], first)


def by_request(histories: Histories, request: NDArray[np.uint64]) -> Groups:
    """All events of a user that name one request id, `(N,)` keys; events without one in none."""
    named = np.flatnonzero(request)
    earliest = _earliest(_owners(histories, named), request[named])
    heads, group = np.unique(earliest, return_inverse=True)
    of = np.full(len(request), -1, np.int64)
    of[named] = group
    return Groups(of, named[heads])


def _owners(histories: Histories, events: Ints) -> Ints:
    return np.searchsorted(histories.offsets, events, side="right") - 1


def _earliest(users: Ints, key: NDArray[np.uint64]) -> Ints:
    """`(N,)` for each place the first one with the same user and key."""
    order = np.lexsort((np.arange(len(key)), key, users))
    found = np.arange(len(key))
    if len(order):
        fresh = np.ones(len(order), bool)
        ours, theirs = order[1:], order[:-1]
        fresh[1:] = (key[ours] != key[theirs]) | (users[ours] != users[theirs])
        heads = np.flatnonzero(fresh)
        found[order] = order[heads[np.cumsum(fresh) - 1]]
    return found


@dataclass(frozen=True)
class Lists:
    """A list for each group that has one."""

    group: Ints
    """`(R,)` ascending."""
    offsets: Ints
    """`(R + 1,)`."""
    rows: Ints
    """`(O,)` for each element the event that it is from."""

    def aligned(self, groups: Ints) -> Lists:
        """The lists of other groups, ascending and these among them; empty where there is none."""
        lengths = np.zeros(len(groups), np.int64)
        lengths[np.searchsorted(groups, self.group)] = np.diff(self.offsets)
        return Lists(groups, np.append(0, np.cumsum(lengths)), self.rows)


def outcomes(
    groups: Groups, rows: Ints, records: Interactions, bits: NDArray[np.uint8]
) -> tuple[Lists, NDArray[np.uint8]]:
    """Distinct items of each group in the order of their first outcome, and their bits, joined.

    Args:
        rows: `(K,)` events that are outcomes, ascending.
        bits: `(K,)` what each of them says.
    """
    group, item = groups.of[rows], records["item"][rows]
    order = np.lexsort((item, group))  # stable: within an item the earliest event comes first
    fresh = _fresh(group[order], item[order])
    heads = np.flatnonzero(fresh)
    joined = np.bitwise_or.reduceat(bits[order], heads) if len(heads) else bits[:0]
    told = np.lexsort((order[heads], group[order[heads]]))
    return _lists(group[order[heads[told]]], rows[order[heads[told]]]), joined[told]


def slates(
    groups: Groups, records: Interactions, position: Ints, wanted: NDArray[np.bool_]
) -> Lists:
    """The impressions of each wanted group, an item once, in the order of their places.

    Args:
        position: `(N,)` places; what has none stands at the end, by time.
        wanted: `(G,)`.
    """
    shown = (records["action"] == IMPRESSION) & (records["item"] != 0)
    rows = np.flatnonzero(shown & np.append(wanted, False)[groups.of])
    group, item = groups.of[rows], records["item"][rows]
    order = np.lexsort((position[rows], item, group))
    heads = order[_fresh(group[order], item[order])]
    told = heads[np.lexsort((heads, position[rows[heads]], group[heads]))]
    return _lists(group[told], rows[told])


def _fresh(group: Ints, item: NDArray[np.uint64]) -> NDArray[np.bool_]:
    fresh = np.ones(len(group), bool)
    fresh[1:] = (group[1:] != group[:-1]) | (item[1:] != item[:-1])
    return fresh


def _lists(group: Ints, rows: Ints) -> Lists:
    asked, begins = np.unique(group, return_index=True)
    return Lists(asked, np.append(begins, len(group)).astype(np.int64), rows)
