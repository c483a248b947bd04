"""Memory by itself: one user at a time, many readings at once, other ways to count, growth.

python -m tests.benchmarks.bench_memory --only counters --stream news_clicks
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import numpy as np
import pyarrow as pa

from models.config import DAY_MS
from models.events import ACTIONS, INTERACTION, Interactions
from models.memory import (
    Histories,
    MemorySpec,
    decode,
    encode,
    fold,
    merge,
    update,
    user_features,
    view,
    views,
)
from tests.benchmarks import table
from tests.benchmarks.counters import DAYS, HAS_RIVER, KINDS, Ebb, Floats
from tests.benchmarks.streams import STREAMS, Followed, Stream, follow

T = TypeVar("T")
REPEATS, NOW = 3, 1_700_000_000_000
SPEC = MemorySpec()
NAMES = ("view", "view", "view", "save", "purchase", "dismiss")
NUM_USERS, LEAST = 300, 20
"""Of a stream so many users are followed, each with at least so many events."""
WEEK = DAYS.index(7)


def life(num: int, *, days: int = 180, seed: int = 0) -> Interactions:
    """A user's events up to now, five a session."""
    rng = np.random.default_rng(seed)
    events = np.zeros(num, INTERACTION)
    events["ts"] = NOW - np.sort(rng.integers(0, days * DAY_MS, num))[::-1]
    for name in ("event", "item"):
        events[name] = rng.integers(1, 2**64, num, np.uint64)
    events["session"], events["interest"] = np.arange(num) // 5 + 1, rng.zipf(1.5, num) % 64
    events["action"] = [ACTIONS[name].code for name in rng.choice(NAMES, num)]
    return events


def timed(call: Callable[[], T]) -> tuple[float, T]:
    begin = time.perf_counter()
    found = call()
    return time.perf_counter() - begin, found


def microseconds(call: Callable[[], object], calls: int) -> Floats:
    """`(calls,)` what each took."""
    return np.array([timed(call)[0] for _ in range(calls)]) * 1e6


def online() -> table.Report:
    """One user at a time, as the service does it."""
    sizes = (20, 200, 2_000)
    heads = [f"{num:,} events: p50 / p99 µs" for num in sizes]
    report = table.Report("one user, half a year", ["", *heads])
    states = [fold(life(num), SPEC.state) for num in sizes]
    new, now = life(32, days=1, seed=1), NOW + 2 * DAY_MS
    new["ts"] += DAY_MS
    calls: dict[str, list[Callable[[], object]]] = {
        "view": [partial(view, s, now_ms=now, spec=SPEC) for s in states],
        "user_features of a view": [
            partial(user_features, view(s, now_ms=now, spec=SPEC)) for s in states
        ],
        "update by one event": [partial(update, s, new[:1], SPEC.state) for s in states],
        "merge, 32 events folded": [
            partial(merge, s, fold(new, SPEC.state), SPEC.state) for s in states
        ],
        "encode": [partial(encode, s, SPEC.state) for s in states],
        "decode": [partial(decode, encode(s, SPEC.state), SPEC.state) for s in states],
    }
    for what, sides in calls.items():
        rounds = table.alternate(
            {str(num): partial(microseconds, sides[n], 1_000) for n, num in enumerate(sizes)},
            REPEATS,
        )
        took = [np.percentile(np.concatenate(found), [50, 99]) for found in rounds.values()]
        report.row(what, *(f"{middle:.0f} / {high:.0f}" for middle, high in took))
    report.line()
    report.row("bytes of the state", *(f"{len(encode(s, SPEC.state)):,}" for s in states))
    report.row("bytes of the records", *(f"{num * INTERACTION.itemsize:,}" for num in sizes))
    return report


def histories(num_users: int, num: int) -> Histories:
    events = np.concatenate([life(num, seed=user) for user in range(num_users)])
    names = pa.array([f"user-{n}" for n in range(num_users)])
    return Histories(names, np.arange(num_users + 1) * num, events, events["ts"])


def batch() -> table.Report:
    """Point-in-time readings of many histories, beside fold and view of each."""
    report = table.Report(
        f"point-in-time readings, {REPEATS} alternating runs",
        ["events a user", "readings/s", "event × view/s", "each alone: event × view/s", "ratio"],
    )
    for num in (20, 64, 200, 640, 2_000):
        stored, rng = histories(20_000 // num, num), np.random.default_rng(0)
        users = np.sort(rng.integers(0, len(stored.users), 2_000))
        rows = stored.offsets[users] + rng.integers(num // 2, num, len(users))
        seen, moments, few = rows - stored.offsets[users] + 1, stored.arrived[rows] + 1, 200
        found = table.alternate(
            {
                "at once": partial(timed, partial(at_once, stored, users, moments)),
                "each": partial(timed, partial(each, stored, users[:few], moments[:few])),
            },
            REPEATS,
        )
        rates = [len(users) / seconds for seconds, _ in found["at once"]]
        ours = [seen.sum() / seconds for seconds, _ in found["at once"]]
        theirs = [seen[:few].sum() / seconds for seconds, _ in found["each"]]
        cells = (table.spread(values) for values in (rates, ours, theirs))
        report.row(f"{num:,}", *cells, table.ratio(ours, theirs))
        pairs = zip(found["at once"], found["each"], strict=True)
        same = all(many[:few].tobytes() == alone.tobytes() for (_, many), (_, alone) in pairs)
        report.check(f"{num:,} events a user: every bit of {few} readings", same)
    return report


def at_once(stored: Histories, users: np.ndarray, moments: np.ndarray) -> np.ndarray:
    return np.concatenate([user_features(m) for m in views(stored, users, moments, spec=SPEC)])


def each(stored: Histories, users: np.ndarray, moments: np.ndarray) -> np.ndarray:
    def one(user: int, now_ms: int) -> np.ndarray:
        state = fold(stored.seen(user, now_ms), SPEC.state)
        return user_features(view(state, now_ms=now_ms, spec=SPEC))

    return np.stack(list(map(one, users.tolist(), moments.tolist())))


def counters(name: str) -> list[table.Report]:
    """One counter kept in several ways over one stream, and where each goes wrong."""
    stream = STREAMS[name]().some(NUM_USERS, least=LEAST)
    ends = np.linspace(stream.events["ts"].min(), stream.events["ts"].max(), 11)[1:]
    moments = ends.astype(int).tolist()
    runs = table.alternate(
        {what: partial(follow, kind, stream, moments) for what, kind in KINDS.items()}, REPEATS
    )
    title = f"{name}, {len(stream.users):,} events of {NUM_USERS} users, read at ten times"
    reports = [cost(title, stream, runs), errors(title, stream, runs, moments)]
    return [*reports, failures(f"{name}, numbers for 7 d", stream)]


def cost(title: str, stream: Stream, runs: dict[str, list[Followed]]) -> table.Report:
    report = table.Report(title, ["", "µs an event", "µs a read", "bytes a user"])
    for what, found in runs.items():
        num_reads = sum(map(len, found[0].reads))
        adding = [run.adding / len(stream.users) * 1e6 for run in found]
        reading = [run.reading / num_reads * 1e6 for run in found]
        kept = [counter.num_bytes() for counter in found[0].counters.values()]
        cells = table.spread(adding, ",.1f"), table.spread(reading, ",.1f")
        report.row(what, *cells, f"{np.mean(kept):,.0f}")
    if not HAS_RIVER:
        report.row("river", "not installed: pip install river", "", "")
    report.note("A view reads all that is known of a user, the others one counter, four horizons.")
    return report


def errors(
    title: str, stream: Stream, runs: dict[str, list[Followed]], moments: list[int]
) -> table.Report:
    heads = [f"{days} d: mean / worst" for days in DAYS]
    report = table.Report(f"{title}: error", ["", *heads])
    for what, found in runs.items():
        pairs = zip(found[0].reads, moments, strict=True)
        off = np.concatenate([away(r, stream.exact(KINDS[what], now)) for r, now in pairs])
        report.row(what, *map(told, off.T))
    report.note("Off the exact number by so much of it, or of an event where it is less than one.")
    return report


def away(reads: Floats, exact: Floats) -> Floats:
    """`(users, 4)` errors."""
    return np.abs(reads - exact) / np.maximum(exact, 1.0)


def told(off: Floats) -> str:
    return f"{_share(off.mean())} / {_share(off.max())}"


def _share(part: float) -> str:
    if part < 1e-4:
        return f"{part:.0e}" if part else "0"
    return f"{part:.2%}" if part < 1 else f"{part:,.0f}x"


def failures(title: str, stream: Stream) -> table.Report:
    """What silence, delays and repeats do to each; all are read when everything has come."""
    heads = ["a silent month: told for true", "10 % up to 3 d late: off", "then the same bits"]
    report = table.Report(title, ["", *heads, "5 % sent twice: off"])
    now = int(stream.events["ts"].max()) + 3 * DAY_MS
    late, twice = stream.late(0.1, 3 * DAY_MS), stream.twice(0.05)
    for what, kind in KINDS.items():
        plain, silent = follow(kind, stream, [now, now + 30 * DAY_MS]).reads
        (delayed,) = follow(kind, late, [now]).reads
        (again,) = follow(kind, twice, [now], distinct=issubclass(kind, Ebb)).reads
        month = stream.exact(kind, now + 30 * DAY_MS)
        report.row(
            what,
            f"{silent[:, WEEK].mean():.2f} for {month[:, WEEK].mean():.2f}",
            told(away(delayed, plain)[:, WEEK]),
            "yes" if delayed.tobytes() == plain.tobytes() else "no",
            told(away(again, plain)[:, WEEK]),
        )
    report.note("Off what the same events tell in order, each sent once. Ebb's pass the marks of a")
    report.note("store first, by which it knows what it has; no other has any.")
    return report


def growth(most: int) -> table.Report:
    """What an event costs as one user's history grows: nothing depends on it but what is kept."""
    heads = ["tiles kept", "fold, µs an event", "update, µs", "view, µs", "bytes of the state"]
    report = table.Report("one user's history over ten years", ["events", *heads])
    for num in [10**n for n in range(2, 7) if 10**n <= most]:
        events, new = life(num, days=3_650), life(1, seed=1, days=1)
        new["ts"] += DAY_MS
        seconds, state = timed(partial(fold, events, SPEC.state))
        calls = partial(update, state, new, SPEC.state), partial(view, state, now_ms=NOW, spec=SPEC)
        took = [f"{np.median(microseconds(call, 1_000)):.0f}" for call in calls]
        sizes = f"{len(state.tiles):,}", f"{len(encode(state, SPEC.state)):,}"
        report.row(f"{num:,}", sizes[0], f"{seconds / num * 1e6:.2f}", *took, sizes[1])
    report.note("The spec bounds the tiles: so many of each level, of each action and interest in")
    report.note(
        "use. Who does more in a day fills more of them, who has done it for long does not."
    )
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parts = ("online", "batch", "counters", "growth")
    parser.add_argument("--only", choices=parts, nargs="+", default=parts, help="by default all")
    parser.add_argument("--stream", choices=STREAMS, default="online_retail", help="for counters")
    parser.add_argument("--most", type=int, default=1_000_000, help="growth: up to so many events")
    given = parser.parse_args()
    runs: dict[str, Callable[[], list[table.Report]]] = {
        "online": lambda: [online()],
        "batch": lambda: [batch()],
        "counters": lambda: counters(given.stream),
        "growth": lambda: [growth(given.most)],
    }
    table.show(*(report for part in given.only for report in runs[part]()))


if __name__ == "__main__":
    main()
