"""The stores: updates beside the bare client putting the same bytes, reads, growth, size.

python -m tests.benchmarks.bench_stores --events 10000000 --users 1000000
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from models.events import TIMESTAMP, validate
from models.stores import MemoryStore
from tests.benchmarks import table
from tests.benchmarks.sides import SIDES, Side

REPEATS, NUM_USERS, NUM_EVENTS = 3, 1_000, 100
"""Repeats, and the store that updates and reads begin with: users, events of each on average."""
SHAPES = {"100 events of 100 users": (100, 60), "1 event": (1, 300)}
"""Events a call to calls a run."""
THREADS = (1, 4, 16)
ACTIONS = ("impression", "impression", "view", "click", "save", "purchase", "dismiss")
FILL = 5_000  # events a call where a store is filled
BEGIN, STEP_MS = 1_400_000_000_000, 30_000  # each event comes half a minute after the one before


def events(users: np.ndarray, *, first: int) -> pa.Table:
    """One event of each user given, in the order of time; ids and times follow from `first`."""
    rng, count = np.random.default_rng(first), len(users)
    numbers = first + np.arange(count)
    ts = BEGIN + numbers * STEP_MS
    raw = {
        "event_id": [f"event-{n:012}" for n in numbers.tolist()],
        "ts": pa.array(ts).cast(TIMESTAMP),
        "user_id": [f"user-{n:08}" for n in users.tolist()],
        "item_id": [f"item-{n}" for n in rng.integers(0, 20_000, count).tolist()],
        "action": rng.choice(ACTIONS, count).tolist(),
        "session_id": [f"session-{n // 50}" for n in numbers.tolist()],
        "request_id": [f"request-{n // 10}" for n in numbers.tolist()],
        "position": pa.array(rng.integers(0, 20, count), pa.int32()),
        "surface": ["search"] * count,
    }
    return validate(pa.table(raw), now_ms=int(ts[-1])).good


def fill(store: MemoryStore, users: np.ndarray, first: int = 0) -> float:
    """Applies one event of each user given; gives the seconds inside the store."""
    seconds = 0.0
    for low in range(0, len(users), FILL):
        part = events(users[low : low + FILL], first=first + low)
        begin = time.perf_counter()
        store.apply_many(part)
        seconds += time.perf_counter() - begin
    return seconds


def timed(call: Callable[[pa.Table], object], tables: Sequence[pa.Table]) -> list[float]:
    took = []
    for part in tables:
        begin = time.perf_counter()
        call(part)
        took.append(time.perf_counter() - begin)
    return took


def fresh(size: int, calls: int) -> list[pa.Table]:
    """Calls of new events, of different users each."""
    rng, first = np.random.default_rng(1), NUM_USERS * NUM_EVENTS
    return [
        events(rng.permutation(NUM_USERS)[:size], first=first + call * size)
        for call in range(calls)
    ]


@table.contextmanager
def copied(side: Side, base: Path) -> Iterator[Path]:
    """A copy of a closed store, gone afterwards."""
    folder = base.with_name(f"{base.name}-copy")
    side.copy(base, folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def ours(side: Side, base: Path, tables: list[pa.Table], keep: Path | None = None) -> list[float]:
    """Seconds of each call; `keep` gets the store that they leave."""
    with copied(side, base) as folder:
        store = side.open(folder)
        took = timed(store.apply_many, tables)
        store.close()
        if keep is not None:
            side.copy(folder, keep)
    return took


def bare(side: Side, base: Path, after: Path, size: int) -> list[float]:
    """The same of the bare client, which puts what `after` has more than `base`."""
    with copied(side, base) as folder:
        return side.put(folder, after, after=NUM_USERS * NUM_EVENTS, size=size)


def equal(side: Side, base: Path, after: Path, size: int) -> bool:
    """Whether the bare client leaves what our store leaves."""
    with copied(side, base) as folder:
        side.put(folder, after, after=NUM_USERS * NUM_EVENTS, size=size)
        return side.digest(folder) == side.digest(after)


def updates(name: str, side: Side, base: Path) -> table.Report:
    """Ours beside the bare client."""
    report = table.Report(
        f"{name}: durable updates of {NUM_USERS:,} users with {NUM_EVENTS} events on average, "
        f"{REPEATS} alternating runs",
        ["", "events a second", "p50 ms", "p99 ms", "seconds, ours : bare"],
    )
    for shape, (size, calls) in SHAPES.items():
        tables, after = fresh(size, calls), base.with_name(f"{base.name}-{size}")
        ours(side, base, tables, keep=after)
        runs = table.alternate(
            {
                "Ebb": partial(ours, side, base, tables),
                "bare": partial(bare, side, base, after, size),
            },
            REPEATS,
        )
        seconds = {who: [sum(took) for took in many] for who, many in runs.items()}
        for who, many in runs.items():
            rates = [size * calls / spent for spent in seconds[who]]
            ratio = table.ratio(seconds["Ebb"], seconds["bare"]) if who == "Ebb" else ""
            report.row(f"{shape} a call, {who}", table.spread(rates), *percentiles(many), ratio)
        report.check(f"all records after {calls} calls", equal(side, base, after, size))
    return report


def percentiles(runs: list[list[float]]) -> list[str]:
    """p50 and p99 in milliseconds, medians over the runs."""
    shares = [np.percentile(took, [50, 99]) * 1000 for took in runs]
    return [f"{table.median([share[place] for share in shares]):.2f}" for place in (0, 1)]


def threads(name: str, side: Side, base: Path) -> table.Report:
    """One event a call, from many threads: commits are shared."""
    report = table.Report(
        f"{name}: one event a call from several threads, {REPEATS} alternating runs",
        ["", "events a second", "p50 ms", "p99 ms"],
    )
    tables = fresh(1, 600)
    sides = {str(count): partial(together, side, base, tables, count) for count in THREADS}
    for count, runs in table.alternate(sides, REPEATS).items():
        rates = [len(tables) / seconds for seconds, _ in runs]
        report.row(f"{count} threads", table.spread(rates), *percentiles([t for _, t in runs]))
    return report


def together(
    side: Side, base: Path, tables: list[pa.Table], count: int
) -> tuple[float, list[float]]:
    """Seconds of all, and of each call."""
    with copied(side, base) as folder, ThreadPoolExecutor(count) as pool:
        store = side.open(folder)
        begin = time.perf_counter()
        took = list(pool.map(lambda one: timed(store.apply_many, [one])[0], tables))
        seconds = time.perf_counter() - begin
        store.close()
    return seconds, took


def reads(name: str, side: Side, base: Path) -> table.Report:
    """States and parts of histories; a state is read with the events not folded in yet."""
    report = table.Report(
        f"{name}: reads, {NUM_USERS:,} users with {NUM_EVENTS} events on average",
        ["", "p50 ms", "p99 ms"],
    )
    store, rng = side.open(base), np.random.default_rng(2)
    users = [[f"user-{n:08}" for n in rng.permutation(NUM_USERS)[:100]] for _ in range(200)]
    calls: dict[str, Callable[[list[str]], object]] = {
        "get_many of 1": lambda some: store.get_many(some[:1]),
        "get_many of 100": store.get_many,
        "nearest: 32 and 16 of each of 4": lambda some: store.nearest(
            some[0], interests=[1, 2, 3, 4], recent=32, num=16
        ),
        "interactions": lambda some: store.interactions(some[0]),
    }
    for what, call in calls.items():
        report.row(what, *percentiles([timed(call, users)]))
    store.close()
    return report


def growth(name: str, side: Side, folder: Path, num_events: int, num_users: int) -> table.Report:
    """What an event costs as a store grows, by events and by users, and what it takes."""
    report = table.Report(
        f"{name}: growth, {FILL:,} events a call",
        ["store", "µs an event", "bytes a user", "an event"],
    )
    rng = np.random.default_rng(3)
    for what, marks, pick in (
        (
            "events of 1,000 users",
            _decades(10_000, num_events),
            lambda low, n: rng.integers(0, 1000, n),
        ),
        ("users, 1 event each", _decades(1_000, num_users), lambda low, n: np.arange(low, low + n)),
    ):
        home, done = folder / what.split()[0], 0
        for mark in marks:
            store = side.open(home)
            last = max(done, mark - 4 * FILL)  # only the last calls before a mark are told
            fill(store, pick(done, last - done), done)
            seconds = fill(store, pick(last, mark - last), last)
            users = store.num_users
            store.close()
            size = side.num_bytes(home)
            cost = seconds / (mark - last) * 1e6
            report.row(
                f"{mark:,} {what}", f"{cost:.0f}", f"{size / users:,.0f}", f"{size / mark:,.0f}"
            )
            done = mark
        shutil.rmtree(home)
        report.line()
    report.note("Up to some 200 events a user the states still fill; then the cost should stay.")
    return report


def _decades(first: int, last: int) -> list[int]:
    """first, ten times that, ... up to and with last."""
    found = [first]
    while found[-1] * 10 < last:
        found.append(found[-1] * 10)
    return [*found, last] if last > found[-1] else found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000, help="growth: up to so many")
    parser.add_argument("--users", type=int, default=50_000, help="growth: up to so many")
    given = parser.parse_args()
    reports = []
    with table.scratch() as folder:
        for name, side in SIDES.items():
            base = folder / name
            store, rng = side.open(base), np.random.default_rng(0)
            # Some do much more than others: 50 to 3,000 events, so no two are folded in step.
            fill(store, (rng.random(NUM_USERS * NUM_EVENTS) ** 2 * NUM_USERS).astype(int))
            store.close()
            reports += [
                updates(name, side, base),
                threads(name, side, base),
                reads(name, side, base),
                growth(name, side, folder, given.events, given.users),
            ]
    table.show(*reports)


if __name__ == "__main__":
    main()
