"""Streams of real events, and counters that follow them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.config import DAY_MS
from models.events import ACTIONS, INTERACTION, Interactions, keys64
from tests.benchmarks.counters import Counter, Floats

SHARED = Path("../shared/data")


@dataclass(frozen=True)
class Stream:
    """Events of one action in the order in which they come: N of U users."""

    users: NDArray[np.int64]
    """`(N,)` numbers below U."""
    events: Interactions
    """`(N,)`."""

    @staticmethod
    def of(table: pa.Table, *, user: str, ts: str, item: str, session: str) -> Stream:
        """By time; users are numbered, and every row is an event."""
        table = table.sort_by(ts)
        events = np.zeros(len(table), INTERACTION)
        millis = table[ts].cast(pa.timestamp("ms"), safe=False)
        events["ts"], events["action"] = millis.cast(pa.int64()), ACTIONS["purchase"].code
        events["event"] = np.random.default_rng(0).integers(1, 2**64, len(table), np.uint64)
        for name, column in (("item", item), ("session", session)):
            events[name] = keys64(table[column].cast(pa.string()))
        return Stream(_codes(table[user]), events)

    def some(self, num_users: int, *, least: int) -> Stream:
        """The events of so many users, drawn among those with at least so many events each."""
        rng, busy = np.random.default_rng(1), np.flatnonzero(np.bincount(self.users) >= least)
        mine = np.isin(self.users, rng.permutation(busy)[:num_users])
        users = np.unique(self.users[mine], return_inverse=True)[1]
        return Stream(users, self.events[mine])

    def late(self, share: float, most_ms: int) -> Stream:
        """The same events where some come later than they should, by up to so long."""
        rng, num = np.random.default_rng(2), len(self.users)
        comes = self.events["ts"] + (rng.random(num) < share) * rng.integers(0, most_ms, num)
        order = np.argsort(comes, kind="stable")
        return Stream(self.users[order], self.events[order])

    def twice(self, share: float) -> Stream:
        """The same events where some are sent again right away."""
        sent = 1 + (np.random.default_rng(3).random(len(self.users)) < share)
        return Stream(np.repeat(self.users, sent), np.repeat(self.events, sent))

    def exact(self, kind: type[Counter], now_ms: int) -> Floats:
        """`(users, 4)` what each user with an event by now should be told; an event counts once."""
        _, first = np.unique(self.events["event"], return_index=True)
        first = first[self.events["ts"][first] <= now_ms]
        ts, users = self.events["ts"][first], self.users[first]
        order = np.argsort(users, kind="stable")
        begins = np.flatnonzero(np.diff(users[order])) + 1
        return np.array([kind.exact(mine, now_ms) for mine in np.split(ts[order], begins)])


def _codes(column: pa.ChunkedArray) -> NDArray[np.int64]:
    codes = column.combine_chunks().dictionary_encode().indices
    return codes.cast(pa.int64()).to_numpy()


def online_retail() -> Stream:
    """Lines of invoices over a year; the data set comes with the project."""
    lines = pq.read_table("jobs/datasets/online_retail/online_retail.parquet")
    bought = pc.invert(pc.starts_with(lines["InvoiceNo"], "C"))
    lines = lines.filter(pc.and_(bought, pc.is_valid(lines["CustomerID"])))
    names = {"user": "CustomerID", "ts": "InvoiceDate", "item": "StockCode", "session": "InvoiceNo"}
    return Stream.of(lines, **names)


def news_clicks() -> Stream:
    """Clicks of a news portal in a week, where the data set is at hand."""
    clicks = pq.read_table(SHARED / "news_clicks" / "clicks.parquet")
    return Stream.of(clicks, user="user_id", ts="ts", item="article_id", session="session_id")


def synthetic() -> Stream:
    """Ten thousand users over a year, in bursts of days."""
    rng, num, num_users = np.random.default_rng(4), 400_000, 10_000
    users, burst = (num_users * rng.random(num) ** 2).astype(int), rng.integers(0, 12, num)
    begins = 1_600_000_000_000 + rng.integers(0, 365, (num_users, 12)) * DAY_MS
    ts = pa.array(begins[users, burst] + rng.integers(0, 3 * DAY_MS, num))
    item, session = rng.integers(0, 5_000, num), users * 12 + burst
    columns = {"user": users, "ts": ts.cast(pa.timestamp("ms")), "item": item, "session": session}
    return Stream.of(pa.table(columns), **dict(zip(columns, columns, strict=True)))


STREAMS: dict[str, Callable[[], Stream]] = {
    "online_retail": online_retail,
    "news_clicks": news_clicks,
    "synthetic": synthetic,
}


@dataclass(frozen=True)
class Followed:
    """What became of the counters of one kind, one a user."""

    counters: dict[int, Counter]
    adding: float
    """Seconds of all events, and of all readings."""
    reading: float
    reads: list[Floats]
    """`(users, 4)` at each moment, of those with an event by then."""


def follow(
    kind: type[Counter], stream: Stream, moments: list[int], *, distinct: bool = False
) -> Followed:
    """All events in the order in which they come, and a reading of everybody at each moment.

    Args:
        moments: the last one is after all events.
        distinct: leaves out what was seen before, as a store does by its marks.
    """
    counters: dict[int, Counter] = defaultdict(kind)
    adding, reading, reads = 0.0, 0.0, []
    for part, now_ms in _parts(stream, moments, distinct):
        begin = time.perf_counter()
        for user, ts, event in part:
            counters[user].add(ts, event)
        middle = time.perf_counter()
        found = [counters[user].read(now_ms) for user in sorted(counters)]
        end = time.perf_counter()
        reads.append(np.array(found))
        adding, reading = adding + middle - begin, reading + end - middle
    return Followed(counters, adding, reading, reads)


def _parts(
    stream: Stream, moments: list[int], distinct: bool
) -> Iterator[tuple[list[tuple[int, int, Interactions]], int]]:
    """User, time and record of the events up to each moment, those before the last left out."""
    fresh = np.ones(len(stream.users), bool)
    if distinct:
        fresh[:] = False
        fresh[np.unique(stream.events["event"], return_index=True)[1]] = True
    users, ts = stream.users.tolist(), stream.events["ts"].tolist()
    low, comes = 0, np.maximum.accumulate(stream.events["ts"])
    for now_ms in moments:
        high = int(np.searchsorted(comes, now_ms, side="right"))
        rows = (low + np.flatnonzero(fresh[low:high])).tolist()
        yield [(users[n], ts[n], stream.events[n : n + 1]) for n in rows], now_ms
        low = high
