"""Histories of many users, stored once; an example points into them by (user, as-of).

Columns lie user after user, in each user by `(ts, event)`. What a request at time t may see are
the events that had *arrived* strictly before t.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.events import INTERACTION, Interactions
from models.memory.ring import IMPRESSION
from models.memory.segments import lower_bound
from models.memory.spec import StateSpec

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Histories:
    """All interactions of U users.

    Raises:
        ValueError: when the columns do not fit together or a user's events are out of order.
    """

    users: pa.Array
    """`(U,)` user ids."""
    offsets: NDArray[np.int64]
    """`(U + 1,)` where each user's events begin."""
    interactions: Interactions
    """`(N,)`."""
    arrived: NDArray[np.int64]
    """`(N,)` milliseconds."""
    late: NDArray[np.bool_] = field(init=False)
    """`(U,)` users with an event that arrived after a younger one."""

    def __post_init__(self) -> None:
        num_events = len(self.interactions)
        ends = self.offsets[:1].tolist(), self.offsets[-1:].tolist()
        if len(self.offsets) != len(self.users) + 1 or ends != ([0], [num_events]):
            raise ValueError("histories: offsets do not fit the users and their events")
        if (np.diff(self.offsets) < 0).any():
            raise ValueError("histories: offsets do not fit, one is less than the one before it")
        if len(self.arrived) != num_events:
            raise ValueError("histories: one arrival per interaction is needed")
        inside = np.ones(max(num_events - 1, 0), bool)
        edges = self.offsets[1:-1]
        inside[edges[(edges > 0) & (edges < num_events)] - 1] = False
        before, after = self.interactions[:-1][inside], self.interactions[1:][inside]
        tied = before["ts"] == after["ts"]
        if (before["ts"] > after["ts"]).any() or (tied & (before["event"] >= after["event"])).any():
            raise ValueError("histories: a user's events must be distinct and in (ts, event) order")
        disordered = np.flatnonzero(inside & (np.diff(self.arrived) < 0))
        late = np.zeros(len(self.users), bool)
        late[np.searchsorted(self.offsets, disordered, side="right") - 1] = True
        object.__setattr__(self, "late", late)

    def seen(self, user: int, as_of_ms: int) -> Interactions:
        """Everything of one user that had arrived strictly before a moment, in time order."""
        low, high = self.offsets[user], self.offsets[user + 1]
        return self.interactions[low:high][self.arrived[low:high] < as_of_ms]

    def ring_rows(
        self, users: Ints, as_of_ms: Ints, spec: StateSpec, num: int | None = None
    ) -> Ints:
        """`(B, num)` rows of `interactions` in each request's ring, newest last, -1 before.

        The same events as the ring of the state folded from `seen`; -1 as user means no history.

        Args:
            num: how many of the ring's newest; by default all, `spec.ring`.
        """
        num = min(num or spec.ring, spec.ring)
        in_ring = self.in_ring(spec)
        rows = np.full((len(users), num), -1, np.int64)
        known = np.flatnonzero(users >= 0)
        low = self.offsets[users[known]]
        high = low + self.num_arrived(users[known], as_of_ms[known])
        first, last = (np.searchsorted(in_ring, edge)[:, None] for edge in (low, high))
        recent = last - np.arange(num, 0, -1)
        inside = recent >= first
        found = np.full(recent.shape, -1, np.int64)
        found[inside] = in_ring[recent[inside]]
        rows[known] = found
        for place in known[self.late[users[known]]]:
            ours = slice(*np.searchsorted(in_ring, self.offsets[users[place] : users[place] + 2]))
            seen = in_ring[ours][self.arrived[in_ring[ours]] < as_of_ms[place]][-num:]
            rows[place] = -1
            rows[place, num - len(seen) :] = seen
        return rows

    def in_ring(self, spec: StateSpec) -> Ints:
        """Rows of all interactions that go into a ring."""
        return self._not_shown if spec.shown else self._all

    @cached_property
    def _all(self) -> Ints:
        return np.arange(len(self.interactions))

    @cached_property
    def _not_shown(self) -> Ints:
        return np.flatnonzero(self.interactions["action"] != IMPRESSION)

    def num_arrived(self, users: Ints, as_of_ms: Ints) -> Ints:
        """`(B,)` events arrived before each as-of, for users without late arrivals."""
        low, high = self.offsets[users], self.offsets[users + 1]
        return lower_bound(self.arrived, low, high, as_of_ms) - low

    def to_table(self) -> pa.Table:
        """One row per interaction, user after user.

        Raises:
            ValueError: when a user has no events: no row would stand for them, and the places
                of the users after them would move.
        """
        lengths = np.diff(self.offsets)
        if not lengths.all():
            lone = self.users[int(np.argmin(lengths))].as_py()
            raise ValueError(f"histories: user {lone!r} has no events; leave such users out")
        indices = pa.array(np.repeat(np.arange(len(self.users), dtype=np.int32), lengths))
        columns = {name: self.interactions[name] for name in INTERACTION.names or ()}
        users = pa.DictionaryArray.from_arrays(indices, self.users)
        return pa.table({"user_id": users.cast(pa.string()), "arrived": self.arrived, **columns})

    @staticmethod
    def from_table(table: pa.Table) -> Histories:
        """The reverse of `to_table`; a user's rows lie together."""
        encoded = table["user_id"].combine_chunks().dictionary_encode()
        codes = encoded.indices.to_numpy()
        begins = np.flatnonzero(np.diff(codes, prepend=-1))
        if len(begins) != len(encoded.dictionary):
            raise ValueError("histories: the rows of a user must lie together")
        interactions = np.zeros(len(table), INTERACTION)
        for name in INTERACTION.names or ():
            interactions[name] = table[name].to_numpy()
        return Histories(
            users=encoded.dictionary,
            offsets=np.append(begins, len(table)).astype(np.int64),
            interactions=interactions,
            arrived=table["arrived"].to_numpy(),
        )
