"""Point-in-time baselines: what a model with memory has to beat.

Each scores the whole catalogue for each request from events strictly before the request's `as_of`.
Only positive events of known items count; `ts` is the time from which an event was known.
Blocks of scores are (rows, I + 1) float32, in the order of the requests; column 0, the unknown
item, is -inf. A block has at most 512 rows, fewer for a large catalogue: keep count by its length.
Shapes: `N` events, `R` requests, `I` items of the catalogue (indices 1..I).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Scores = NDArray[np.float32]

_MAX_ROWS = 512
_MAX_CELLS = 2**24  # cells of a block: 64 MiB as float32


@dataclass(frozen=True)
class Interactions:
    """A log of `N` events sorted by time; ValueError when it is not.

    `user` (N,); `item` (N,) catalogue index 0..num_items (0: unknown, never scored); `ts` (N,)
    milliseconds; `positive` (N,) bool.
    """

    user: Ints
    item: Ints
    ts: Ints
    positive: Bools
    num_items: int

    def __post_init__(self) -> None:
        if not len(self.user) == len(self.item) == len(self.ts) == len(self.positive):
            raise ValueError("Interactions: user, item, ts and positive differ in length")
        if np.any(self.ts[1:] < self.ts[:-1]):
            raise ValueError("Interactions: ts is not ascending; sort the log by ts")
        if len(self.item) and not 0 <= self.item.min() <= self.item.max() <= self.num_items:
            raise ValueError(
                f"Interactions: items span {self.item.min()}..{self.item.max()}, the catalogue"
                f" 0..{self.num_items}; map items through the catalogue first"
            )

    def some(self, keep: Bools) -> "Interactions":
        """Some of the events, `(N,)`, in the same order."""
        return Interactions(
            self.user[keep], self.item[keep], self.ts[keep], self.positive[keep], self.num_items
        )

    def at(self, ts: int) -> "Interactions":
        """The same events, all at one moment."""
        return Interactions(
            self.user, self.item, np.full(len(self.ts), ts), self.positive, self.num_items
        )

    def choices(self) -> "Interactions":
        """The positive events of known items alone, in the same order."""
        return self.some(self.positive & (self.item > 0))


@dataclass(frozen=True)
class Requests:
    """`R` requests: `user` (R,) and `as_of` (R,) ms, ascending (ValueError when not)."""

    user: Ints
    as_of: Ints

    def __post_init__(self) -> None:
        if self.user.shape != self.as_of.shape or self.user.ndim != 1:
            raise ValueError("Requests: user and as_of must both be (R,)")
        if np.any(self.as_of[1:] < self.as_of[:-1]):
            raise ValueError("Requests: as_of is not ascending; sort the requests by as_of")


class Baseline(Protocol):
    """Anything that scores the catalogue for requests."""

    def scores(self, requests: Requests) -> Iterator[Scores]:
        """Yield (rows, I + 1) float32 blocks that together hold one row a request, in order."""
        ...


class Popularity:
    """The number of positive events of each item, of all time or of the last `window_ms`.

    The window at `as_of` holds `as_of - window_ms <= ts < as_of`. Cost: linear in the output.
    """

    def __init__(self, log: Interactions, *, window_ms: int | None = None) -> None:
        if window_ms is not None and window_ms <= 0:
            raise ValueError(f"Popularity: window_ms={window_ms}; pass a positive one, or None")
        self._log = log.choices()
        self._window_ms = window_ms

    def scores(self, requests: Requests) -> Iterator[Scores]:
        """Counts as scores."""
        for _, counts in self.counts(requests):
            yield finish(counts.astype(np.float32))

    def counts(self, requests: Requests) -> Iterator[tuple[slice, Ints]]:
        """Yield (requests of the block, their counts (rows, I + 1))."""
        entered = _running_counts(self._log, self._log.ts, requests)
        if self._window_ms is None:
            yield from entered
            return
        # An event leaves the window as it entered the counts, only `window_ms` later.
        left = _running_counts(self._log, self._log.ts + self._window_ms, requests)
        for (rows, gained), (_, lost) in zip(entered, left, strict=True):
            yield rows, gained - lost


class RepeatFrequency:
    """What the user chose most often; items never chosen follow by all-time popularity.

    A chosen item scores its count plus a fraction in (0, 1) that grows with the time of its latest
    choice (ties: popularity, then index). Any other item scores its popularity scaled into (0, 1).

    Args:
        fit: the log of popularity, by default the same.
    """

    def __init__(self, log: Interactions, *, fit: Interactions | None = None) -> None:
        self._log = log.choices()
        self._histories = Histories(self._log)
        self._popularity = Popularity(log if fit is None else fit)

    def scores(self, requests: Requests) -> Iterator[Scores]:
        """Counts with their tie-breaking fraction; below 1 for items the user never chose."""
        for rows, counts in self._popularity.counts(requests):
            block = ((counts + 1) / (counts.max(axis=1, keepdims=True) + 2)).astype(np.float32)
            row, event = self._histories.before(requests, rows)
            # A cell is one (request, item) pair: its index in the flattened block.
            cell, inverse, times = np.unique(
                row * block.shape[1] + self._log.item[event],
                return_inverse=True,
                return_counts=True,
            )
            latest = np.zeros(len(cell), dtype=np.int64)
            latest[inverse] = self._log.ts[event]  # ascending within a row: the last one stays
            order = np.lexsort((counts.ravel()[cell], latest, cell // block.shape[1]))
            cell, times = cell[order], times[order]
            block.ravel()[cell] = times + _rank_fractions(cell // block.shape[1])
            yield finish(block)


class ItemToItem:
    """Items that share users with the items of the user's history (Sarwar et al., 2001).

    similarity(i, j) = |users of i and j| / sqrt(|users of i| |users of j|), 1 for i = j: an item
    already chosen speaks for itself. Users are those of positive events with ts < `fit_until`.
    A request scores the sum over its user's events of 2^(-age / `half_life_ms`) similarity; a user
    without history scores 0 throughout. Memory: the pairs of items with a common user.

    Args:
        fit: the log that similarities are taken from, by default the same.
    """

    def __init__(
        self,
        log: Interactions,
        *,
        fit_until: int,
        half_life_ms: float,
        fit: Interactions | None = None,
    ) -> None:
        if half_life_ms <= 0:
            raise ValueError(f"ItemToItem: half_life_ms={half_life_ms}; pass a positive one")
        self._log = log.choices()
        self._histories = Histories(self._log)
        self._fit_until = fit_until
        self._half_life_ms = half_life_ms
        learnt = self._log if fit is None else fit.choices()
        self._similarity = _cosine(learnt, int(np.searchsorted(learnt.ts, fit_until)))

    def scores(self, requests: Requests) -> Iterator[Scores]:
        """Summed similarities; ValueError when a request comes before `fit_until`."""
        if len(requests.as_of) and requests.as_of[0] < self._fit_until:
            raise ValueError(
                f"ItemToItem: a request at {requests.as_of[0]} comes before fit_until="
                f"{self._fit_until} and would see its future; fit up to the first request"
            )
        for rows in blocks(len(requests.user), self._log.num_items):
            row, event = self._histories.before(requests, rows)
            age = requests.as_of[rows][row] - self._log.ts[event]
            weights = np.exp2(-age / self._half_life_ms).astype(np.float32)
            shape = (len(requests.user[rows]), self._log.num_items + 1)
            history = sparse.csr_array((weights, (row, self._log.item[event])), shape=shape)
            yield finish((history @ self._similarity).toarray())


class Unseen:
    """Another baseline without the items that the user met before, liked or not: they score -inf.

    The stronger baseline where nobody takes the same thing twice.
    """

    def __init__(self, baseline: Baseline, log: Interactions) -> None:
        self._baseline, self._log = baseline, log
        self._histories = Histories(log)

    def scores(self, requests: Requests) -> Iterator[Scores]:
        """The other's scores; -inf where the user had an event with the item."""
        start = 0
        for block in self._baseline.scores(requests):
            rows = slice(start, start + len(block))
            row, event = self._histories.before(requests, rows)
            block[row, self._log.item[event]] = -np.inf
            yield block
            start = rows.stop


class Histories:
    """Finds, for many requests at once, the user's own events before each."""

    def __init__(self, log: Interactions) -> None:
        self._log_ts = log.ts
        self._order = np.argsort(log.user, kind="stable")  # by user, then by position in the log
        self._user = log.user[self._order]
        first = np.searchsorted(self._user, self._user, side="left")
        self._keys = first * (len(log.ts) + 1) + self._order  # ascending: (user, position)

    def before(self, requests: Requests, rows: slice) -> tuple[Ints, Ints]:
        """(row within the block, event's position in the log), by row and then ascending ts."""
        user, as_of = requests.user[rows], requests.as_of[rows]
        first = np.searchsorted(self._user, user, side="left")
        stop = np.searchsorted(self._user, user, side="right")
        position = np.searchsorted(self._log_ts, as_of, side="left")  # strictly before as_of
        end = np.searchsorted(self._keys, first * (len(self._keys) + 1) + position, side="left")
        # A user without events shares `first` with the next user; `stop` keeps theirs out.
        lengths = np.minimum(end, stop) - first
        row = np.repeat(np.arange(len(user), dtype=np.int64), lengths)
        within = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return row, self._order[np.repeat(first, lengths) + within]


def _running_counts(
    log: Interactions, times: Ints, requests: Requests
) -> Iterator[tuple[slice, Ints]]:
    """Yield, block by block, counts (rows, I + 1) of the events with `times` (N,) before as_of."""
    width = log.num_items + 1
    seen_by = np.searchsorted(requests.as_of, times, side="right")  # first request that sees it
    carried = np.zeros(width, dtype=np.int64)
    for rows in blocks(len(requests.as_of), log.num_items):
        low, high = np.searchsorted(seen_by, [rows.start, rows.stop])
        cells = (seen_by[low:high] - rows.start) * width + log.item[low:high]
        fresh = np.bincount(cells, minlength=(rows.stop - rows.start) * width)
        block = fresh.reshape(-1, width)
        block[0] += carried
        np.cumsum(block, axis=0, out=block)
        carried = block[-1].copy()
        yield rows, block


def _cosine(log: Interactions, num_events: int) -> sparse.csr_array:
    """(I + 1, I + 1) float32 cosine between items over users, from the first `num_events`."""
    users, user = np.unique(log.user[:num_events], return_inverse=True)
    pairs = np.unique(np.stack([user, log.item[:num_events]], axis=1), axis=0)
    ones = np.ones(len(pairs), dtype=np.float32)
    shape = (len(users), log.num_items + 1)
    chosen = sparse.csr_array((ones, (pairs[:, 0], pairs[:, 1])), shape=shape)
    num_users = np.bincount(pairs[:, 1], minlength=shape[1])
    chosen = chosen @ sparse.diags_array(1.0 / np.sqrt(np.maximum(num_users, 1)))
    return (chosen.T @ chosen).tocsr().astype(np.float32)


def blocks(num_requests: int, num_items: int) -> Iterator[slice]:
    """Requests that are scored together."""
    step = max(1, min(_MAX_ROWS, _MAX_CELLS // (num_items + 1)))
    for start in range(0, num_requests, step):
        yield slice(start, min(start + step, num_requests))


def _rank_fractions(row: Ints) -> NDArray[np.float64]:
    """Ascending fractions in (0, 1) within each run of equal values of `row`, which is sorted."""
    first = np.searchsorted(row, row, side="left")
    stop = np.searchsorted(row, row, side="right")
    return np.asarray((np.arange(len(row)) - first + 1) / (stop - first + 1), dtype=np.float64)


def finish(block: Scores) -> Scores:
    """The block, with the unknown item never found."""
    block[:, 0] = -np.inf
    return block
