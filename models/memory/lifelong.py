"""A lifelong history read at a fixed cost: the last events always, and the nearest of all others.

Nearest means category first: of the interests that a query or the candidates have, the last events
of each, whatever their age (the hard search of SIM, Pi et al. 2020). Of these the most similar to
the query by their vectors are kept, the newer where two are alike. The last few events are always
there, as in TransAct V2 (Xia et al. 2025).

`Lifelong` reads stored histories for training, each reading as of its moment; online
`MemoryStore.nearest` recalls and `nearest` chooses. Both end in the same function, and what they
recall is the same by contract: the events that a ring is made of, so no impressions where those are
kept apart.

B readings, I interests, W events recalled, N events in all, D dimensions of a vector.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.events import ACTIONS, STATE, Interactions
from models.memory.histories import Histories
from models.memory.ring import is_shown
from models.memory.spec import StateSpec

Ints = NDArray[np.int64]
Floats = NDArray[np.floating]
Similarity = Callable[[Ints], Floats]
"""Rows of `Histories.interactions` `(B, W)`, -1 for none, to how near each is to its reading."""
_NEVER = np.iinfo(np.int64).max


def nearest(
    recalled: Interactions,
    *,
    recent: int,
    num: int,
    query: Floats | None = None,
    vectors: Floats | None = None,
) -> Interactions:
    """Chooses among what a store recalled for one user.

    Args:
        recalled: `(W,)` from `MemoryStore.nearest`, with the same `recent`. The store takes the
            last events from the ring, so `recent` is at most `StateSpec.ring`.
        num: how many join the last ones.
        query: `(D,)`; None: the newest of the interests asked for are nearest.
        vectors: `(W, D)` of the events' items, zero for an item without one. With `query`.

    Returns:
        At most `recent + num` interactions, oldest first.
    """
    similar = None
    if query is not None and vectors is not None:
        similar = inner(query[None], vectors[None])
    rows = choose(np.arange(len(recalled))[None], similar, recent=recent, num=num)[0]
    chosen: Interactions = recalled[rows[rows >= 0]]
    return chosen


def inner(query: Floats, vectors: Floats) -> Floats:
    """`(B, W)` inner products of `(B, D)` and `(B, W, D)`; the cosine if lengths are one.

    Each is summed along its own vector, so it is the same to the bit however many are taken at
    once. A product of matrices would not be.
    """
    product: Floats = np.multiply(query[:, None], vectors, order="C").sum(axis=-1)
    return product


def choose(rows: Ints, similar: Floats | None, *, recent: int, num: int) -> Ints:
    """`(B, recent + num)`: the last `recent` of each line, and the `num` most similar before them.

    Args:
        rows: `(B, W)` rising along each line, -1 in front where there are fewer.
        similar: `(B, W)`; equals are chosen by row, the last first. None: all are equal.
    """
    lack = np.full((len(rows), recent + num), -1)
    rows = np.concatenate([lack, rows], axis=1)
    edge = rows.shape[1] - recent
    pool, last = rows[:, :edge], rows[:, edge:]
    if similar is not None:
        found = np.concatenate([np.full(lack.shape, -np.inf), similar], axis=1)[:, :edge]
        found = np.where((pool < 0) | np.isnan(found), -np.inf, found)
        pool = np.take_along_axis(pool, np.lexsort((pool, found)), axis=1)
    return np.concatenate([np.sort(pool[:, edge - num :], axis=1), last], axis=1)


class Lifelong:
    """Stored histories, indexed once by interest, user and time.

    A reading costs what it gives and a binary search, however long the history is; where a user's
    events arrived out of order each event that it gives costs a search.
    """

    def __init__(self, histories: Histories, spec: StateSpec) -> None:
        self._histories, self._spec = histories, spec
        records = histories.interactions
        left_out = is_shown(records, spec) | (records["action"] == ACTIONS[STATE].code)
        rows = np.flatnonzero(~left_out)
        interest = records["interest"][rows].astype(np.int64)
        self._every = _Index(np.zeros_like(rows), rows, histories)
        self._by_interest = _Index(interest, rows, histories)

    def read(
        self,
        users: Ints,
        as_of_ms: Ints,
        interests: Ints,
        *,
        recent: int,
        num: int,
        pool: int | None = None,
        similarity: Similarity | None = None,
    ) -> Ints:
        """`(B, recent + num)` rows of `Histories.interactions`: oldest first, -1 in front.

        Equal to `nearest` of what a store recalls that had seen what arrived before each moment.

        Args:
            users: `(B,)` places in `Histories.users`; -1 for nobody.
            as_of_ms: `(B,)`; what arrived at that moment or after it is not seen.
            interests: `(B, I)` buckets, in any order; -1 for none.
            recent: so many last events are always there; at most `StateSpec.ring`.
            num: so many join them.
            pool: how many of each interest they are chosen from: the `num` of a store's `nearest`.
                By default `num`.
            similarity: how near the events recalled are; None: the newest are nearest.
        """
        each = num if pool is None else pool
        rows = self.recall(users, as_of_ms, interests, recent=recent, num=each)
        similar = similarity(rows) if similarity is not None else None
        return choose(rows, similar, recent=recent, num=num)

    def recall(
        self, users: Ints, as_of_ms: Ints, interests: Ints, *, recent: int, num: int
    ) -> Ints:
        """`(B, recent + I * num)` rows that `MemoryStore.nearest` recalls: newest last, -1 before.

        Raises:
            ValueError: for more recent events than a ring has.
        """
        if recent > self._spec.ring:
            raise ValueError(
                f"recent {recent}: a store keeps the last {self._spec.ring} (StateSpec.ring) at "
                "hand; ask for fewer, or keep a larger ring"
            )
        every = np.zeros((len(users), 1), np.int64)
        last = self._last(self._every, users, as_of_ms, every, recent)
        interests = np.sort(interests.astype(np.int64), axis=1)
        again = interests[:, 1:] == interests[:, :-1]
        interests[:, 1:][again] = -1
        hits = self._last(self._by_interest, users, as_of_ms, interests, num)
        if recent:
            # Full, the last events begin at their first; else they are all that there are.
            hits[hits >= last[:, :1]] = -1
        return np.concatenate([np.sort(hits, axis=1), last], axis=1)

    def _last(self, index: _Index, users: Ints, as_of_ms: Ints, groups: Ints, num: int) -> Ints:
        """`(B, G * num)` the last rows of each group `(B, G)`, group after group."""
        histories = self._histories
        known = users >= 0
        low, high, late = (np.zeros(len(users), kind) for kind in (np.int64, np.int64, bool))
        low[known], late[known] = histories.offsets[users[known]], histories.late[users[known]]
        high[known] = histories.offsets[users[known] + 1]
        prompt = known & ~late
        # In order of arrival what is seen ends at one place; else each event tells for itself.
        high[prompt] = low[prompt] + histories.num_arrived(users[prompt], as_of_ms[prompt])
        each = np.repeat(np.arange(len(users)), groups.shape[1])
        first, end = index.between(low[each], high[each], groups.ravel())
        found = index.last(first, end, num)
        late = late[each]
        found[late] = index.last_arrived(first[late], end[late], as_of_ms[each[late]], num)
        return found.reshape(len(users), groups.shape[1] * num)


class _Index:
    """Rows of events by group, then row; as rows lie by user and time, so do those of a group."""

    def __init__(self, group: Ints, rows: Ints, histories: Histories) -> None:
        self._num = len(histories.interactions)
        self._key = np.sort(group * self._num + rows)
        self._rows = self._key % max(self._num, 1)
        self._histories = histories

    def between(self, low: Ints, high: Ints, group: Ints) -> tuple[Ints, Ints]:
        """`(Q,)` where rows `[low, high)` of each group begin and end here; none of group -1."""
        first, end = (np.searchsorted(self._key, group * self._num + edge) for edge in (low, high))
        return first, end

    def last(self, first: Ints, end: Ints, num: int) -> Ints:
        """`(Q, num)` the last rows of places `[first, end)`, newest last, -1 before."""
        place = end[:, None] - np.arange(num, 0, -1)
        inside = place >= first[:, None]
        found = np.full(place.shape, -1)
        found[inside] = self._rows[place[inside]]
        return found

    def last_arrived(self, first: Ints, end: Ints, as_of_ms: Ints, num: int) -> Ints:
        """The same of those alone that had arrived before each moment."""
        found = np.full((len(first), num), -1)
        place = end
        for column in range(num - 1, -1, -1):
            if not (place > first).any():
                break
            place = self._latest(first, np.maximum(place, 0), as_of_ms)
            found[place >= 0, column] = self._rows[place[place >= 0]]
        return found

    def _latest(self, first: Ints, end: Ints, as_of_ms: Ints) -> Ints:
        """`(Q,)` the last place in `[first, end)` that had arrived before each moment, else -1.

        From the end upwards through blocks of twice the size, to the first in which something had
        arrived; from there downwards, to the right where there is something.
        """
        block, level = np.full(len(first), -1), np.full(len(first), -1)
        place = end
        for height, earliest in enumerate(self._earliest):
            odd = (block < 0) & (place % 2 == 1)
            odd[odd] = earliest[place[odd] - 1] < as_of_ms[odd]
            block[odd], level[odd] = place[odd] - 1, height
            place = place // 2
        for height in range(len(self._earliest) - 1, 0, -1):
            at = np.flatnonzero(level == height)
            right = block[at] * 2 + 1
            block[at] = right - (self._earliest[height - 1][right] >= as_of_ms[at])
            level[at] = height - 1
        return np.where(block >= first, block, -1)

    @cached_property
    def _earliest(self) -> list[Ints]:
        """The earliest arrival in blocks of 1, 2, 4, ... places, up to all of them."""
        levels = [self._histories.arrived[self._rows]]
        while len(levels[-1]) > 1:
            even = np.append(levels[-1], [_NEVER] * (len(levels[-1]) % 2))
            levels.append(even.reshape(-1, 2).min(axis=1))
        return levels
