"""The Redis store beside its bare client: durable updates through a real redis-server."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from models.memory import encode
from models.stores import MemoryStore
from models.stores.rows import to_bytes
from tests.benchmarks import table
from tests.benchmarks.bench_stores import NUM_EVENTS, NUM_USERS, fill, fresh, percentiles, timed
from tests.benchmarks.sides import SPEC, interests
from tests.models.stores.redis_server import BINARY, RedisServer, open_redis

REPEATS = 3
SHAPES = {"100 events of 100 users": (100, 30), "1 event": (1, 200)}
"""Events a call to calls a run."""


def opened(server: RedisServer) -> MemoryStore:
    """An own prefix on the server."""
    return open_redis(Path("bench"), lambda: 0, spec=SPEC, interests=interests, url=server.url)


def ours(server: RedisServer, tables: list[pa.Table]) -> list[float]:
    """Seconds of each call; the events are forgotten again by a flush and a new fill."""
    server.client().flushall()
    store = opened(server)
    fill(store, _users())
    took = timed(store.apply_many, tables)
    store.close()
    return took


def bare(server: RedisServer, batches: list[list[tuple[str, bytes]]]) -> list[float]:
    """The same bytes by plain SETs, one pipeline a call."""
    client = server.client()
    client.flushall()

    took = []
    for pairs in batches:
        begin = time.perf_counter()
        with client.pipeline(transaction=True) as pipe:
            for key, value in pairs:
                pipe.set(key, value)
            pipe.execute()
        took.append(time.perf_counter() - begin)
    return took


def _users() -> np.ndarray:
    return np.random.default_rng(0).integers(0, NUM_USERS, NUM_USERS * NUM_EVENTS // 4)


def bytes_of(store: MemoryStore, tables: list[pa.Table]) -> list[list[tuple[str, bytes]]]:
    """What each call wrote: a row and a mark per event, a state per user."""
    batches = []
    for part in tables:
        users = part["user_id"].to_pylist()
        states = [encode(state, SPEC) for state in store.get_many(users)]
        names = part["event_id"].to_pylist()
        rows = [(f"row:{n}", row) for n, row in zip(names, to_bytes(part), strict=True)]
        marks = [(f"mark:{n}", b"12345678") for n in names]
        kept = [(f"state:{u}", state) for u, state in zip(users, states, strict=True)]
        batches.append([*rows, *marks, *kept])
    return batches


def main() -> None:
    if BINARY is None:
        table.out.print("no redis-server on this machine: apt-get install redis-server")
        return
    with table.scratch() as folder:
        server = RedisServer(folder / "redis")
        try:
            report = table.Report(
                f"Redis, appendfsync always: updates of {NUM_USERS:,} users, {REPEATS} alternating "
                "runs",
                ["", "events a second", "p50 ms", "p99 ms", "seconds, ours : bare"],
            )
            for shape, (size, calls) in SHAPES.items():
                tables = fresh(size, calls)
                ours(server, tables)
                store = opened(server)
                batches = bytes_of(store, tables)
                store.close()
                runs = table.alternate(
                    {"Ebb": partial(ours, server, tables), "bare": partial(bare, server, batches)},
                    REPEATS,
                )
                seconds = {who: [sum(took) for took in many] for who, many in runs.items()}
                for who, many in runs.items():
                    rates = [size * calls / spent for spent in seconds[who]]
                    ratio = table.ratio(seconds["Ebb"], seconds["bare"]) if who == "Ebb" else ""
                    cells = table.spread(rates), *percentiles(many), ratio
                    report.row(f"{shape} a call, {who}", *cells)
            report.note(
                "Bare: SETs of the same rows and states, one transaction a call. The store also "
                "judges, folds states in the client, keeps an index and a stream."
            )
            table.show(report)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
