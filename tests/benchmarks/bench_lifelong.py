"""The lifelong read from 100 to 100,000 events a user: by index, beside a scan of the history.

python -m tests.benchmarks.bench_lifelong
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from models.config import DAY_MS
from models.events import INTERACTION, TIMESTAMP, Interactions, validate
from models.memory import Histories, StateSpec
from models.memory.lifelong import Lifelong, inner, nearest
from models.memory.ring import is_shown
from models.stores import LmdbStore, MemoryStore, StoreConfig
from tests.benchmarks import table

LENGTHS = (100, 1_000, 10_000, 100_000)
NUM_USERS, REPEATS = 10, 3
READINGS = {"index": 2_000, "scan": 60}
"""In one run; each is told by the reading."""
RECENT, NUM, POOL, WIDTH, NUM_ITEMS = 32, 32, 64, 64, 5_000
"""The last events; how many join them, of how many of each interest; the vectors of items."""
SPEC = StateSpec()
NOW = 1_700_000_000_000
ACTIONS = ("impression", "view", "click", "save", "purchase")
VECTORS = np.random.default_rng(0).normal(size=(NUM_ITEMS, WIDTH)).astype(np.float32)


def world(per_user: int, *, late: bool) -> Histories:
    """Ten users over two years; `late`: one event in fifty arrives up to a month later."""
    rng, num = np.random.default_rng(per_user), NUM_USERS * per_user
    events = np.zeros(num, INTERACTION)
    events["ts"] = NOW - rng.integers(0, 730 * DAY_MS, num)
    events["event"], events["item"] = rng.permutation(num) + 1, rng.integers(0, NUM_ITEMS, num)
    events["interest"] = rng.zipf(1.5, num) % SPEC.num_interests
    events["action"] = rng.integers(1, 6, num)
    users = np.repeat(np.arange(NUM_USERS), per_user)
    events = events[np.lexsort((events["event"], events["ts"], users))]
    waits = rng.integers(0, 30 * DAY_MS, num) * (rng.random(num) < 0.02) * late
    names = pa.array([f"user-{n}" for n in range(NUM_USERS)])
    offsets = np.arange(NUM_USERS + 1) * per_user
    return Histories(names, offsets, events, events["ts"] + waits)


Readings = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Users `(B,)`, moments `(B,)`, interests `(B, 2)` and the queries' vectors `(B, WIDTH)`."""


def readings(num: int) -> Readings:
    rng = np.random.default_rng(num)
    return (
        rng.integers(0, NUM_USERS, num),
        NOW - rng.integers(0, 200 * DAY_MS, num),
        rng.zipf(1.5, (num, 2)) % SPEC.num_interests,
        rng.normal(size=(num, WIDTH)).astype(np.float32),
    )


def by_index(stored: Histories, lifelong: Lifelong, asked: Readings) -> list[list[int]]:
    """Events of each reading, 256 readings at once."""
    users, as_of, interests, queries = asked
    found = []
    for low in range(0, len(users), 256):
        part = slice(low, low + 256)
        likeness = partial(_likeness, stored, queries[part])
        rows = lifelong.read(
            users[part],
            as_of[part],
            interests[part],
            recent=RECENT,
            num=NUM,
            pool=POOL,
            similarity=likeness,
        )
        found += [stored.interactions["event"][row[row >= 0]].tolist() for row in rows]
    return found


def _likeness(stored: Histories, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    # The row -1 stands for no event and never wins, whatever the vector.
    return inner(queries, VECTORS[stored.interactions["item"][rows].astype(np.int64)])


def by_scan(stored: Histories, asked: Readings) -> list[list[int]]:
    """The same from all that had arrived, one reading after the other."""
    users, as_of, interests, queries = asked
    return [
        scanned(stored.seen(int(user), int(moment)), wanted.tolist(), query)
        for user, moment, wanted, query in zip(users, as_of, interests, queries, strict=True)
    ]


def scanned(seen: Interactions, interests: list[int], query: np.ndarray) -> list[int]:
    """What a read without an index does: look at every event."""
    kept = seen[~is_shown(seen, SPEC)]
    last, rest = kept[-RECENT:], kept[:-RECENT]
    hits = [np.flatnonzero(kept["interest"] == interest)[-POOL:] for interest in set(interests)]
    near = np.unique(np.concatenate(hits))
    pool = kept[near[near < len(rest)]]
    likeness = (query * VECTORS[pool["item"].astype(np.int64)]).sum(axis=-1)
    best = np.sort(np.lexsort((np.arange(len(pool)), likeness))[-NUM:])
    return [*pool["event"][best].tolist(), *last["event"].tolist()]


def timed(read: Callable[[], list[list[int]]]) -> float:
    """Microseconds a reading."""
    begin = time.perf_counter()
    found = read()
    return (time.perf_counter() - begin) / len(found) * 1e6


def batch(late: bool) -> table.Report:
    """Point-in-time readings for training."""
    title = "one event in fifty arrives late" if late else "events arrive in order"
    report = table.Report(
        f"Batch: {RECENT} last events and the {NUM} nearest of {POOL} of each of 2 interests, "
        f"{title}; µs a reading",
        ["events a user", "index", "scan", "scan : index", "built, µs an event"],
    )
    for length in LENGTHS:
        stored = world(length, late=late)
        begin = time.perf_counter()
        lifelong = Lifelong(stored, SPEC)
        built = (time.perf_counter() - begin) / len(stored.interactions) * 1e6
        few, many = readings(READINGS["scan"]), readings(READINGS["index"])
        same = by_index(stored, lifelong, few) == by_scan(stored, few)  # and it warms up
        report.check(f"events of {len(few[0])} readings, {length:,} events a user", same)
        runs = table.alternate(
            {
                "index": partial(timed, partial(by_index, stored, lifelong, many)),
                "scan": partial(timed, partial(by_scan, stored, few)),
            },
            REPEATS,
        )
        cells = (table.spread(runs[name]) for name in runs)
        ratio = table.ratio(runs["scan"], runs["index"])
        report.row(f"{length:,}", *cells, ratio, f"{built:.2f}")
    return report


def online(folder: Path) -> table.Report:
    """One user's request to a store."""
    report = table.Report(
        "Online, LMDB: the same for one user as of now; µs a reading",
        ["events of the user", "nearest", "interactions and scan", "scan : nearest"],
    )
    config = StoreConfig(path=folder, map_size_bytes=1 << 34, sync=False)
    store = LmdbStore(config, spec=SPEC, interests=interests, clock=lambda: NOW)
    for length in LENGTHS:
        fill(store, f"user-{length}", length)
        _, _, wanted, queries = readings(20)
        asked = list(zip(wanted.tolist(), queries, strict=True))
        sides = {
            "nearest": partial(near, store, f"user-{length}", asked),
            "scan": partial(far, store, f"user-{length}", asked),
        }
        same = sides["nearest"]() == sides["scan"]()
        report.check(f"events of {len(asked)} readings, {length:,} events", same)
        runs = table.alternate({n: partial(timed, side) for n, side in sides.items()}, REPEATS)
        cells = (table.spread(runs[name]) for name in runs)
        report.row(f"{length:,}", *cells, table.ratio(runs["scan"], runs["nearest"]))
    store.close()
    return report


def interests(items: np.ndarray) -> np.ndarray:
    return (items % np.uint64(7)).astype(np.uint16)


Asked = list[tuple[list[int], np.ndarray]]


def near(store: MemoryStore, user_id: str, asked: Asked) -> list[list[int]]:
    found = []
    for wanted, query in asked:
        recalled = store.nearest(user_id, interests=wanted, recent=RECENT, num=POOL)
        vectors = VECTORS[(recalled["item"] % np.uint64(NUM_ITEMS)).astype(np.int64)]
        chosen = nearest(recalled, recent=RECENT, num=NUM, query=query, vectors=vectors)
        found.append(chosen["event"].tolist())
    return found


def far(store: MemoryStore, user_id: str, asked: Asked) -> list[list[int]]:
    found = []
    for wanted, query in asked:
        seen = store.interactions(user_id)
        seen["item"] %= np.uint64(NUM_ITEMS)
        found.append(scanned(seen, wanted, query))
    return found


def fill(store: MemoryStore, user_id: str, length: int) -> None:
    """Events over six days: a store takes no older ones."""
    rng = np.random.default_rng(length)
    for low in range(0, length, 5_000):
        count = min(length - low, 5_000)
        ts = pa.array(NOW - 6 * DAY_MS + rng.integers(0, 5 * DAY_MS, count))
        raw = {
            "event_id": [f"event-{n}" for n in range(low, low + count)],
            "ts": ts.cast(TIMESTAMP),
            "user_id": [user_id] * count,
            "item_id": [f"item-{n}" for n in rng.integers(0, NUM_ITEMS, count).tolist()],
            "action": rng.choice(ACTIONS, count).tolist(),
        }
        store.apply_many(validate(pa.table(raw), now_ms=NOW).good)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    reports = [batch(late=False), batch(late=True)]
    with table.scratch() as folder:
        table.show(*reports, online(folder))


if __name__ == "__main__":
    main()
