"""One side of `bench_prepare` in its own process: `python -m tests.benchmarks.histories SIDE`.

Polars and DuckDB do what a user of theirs would write for the same result: distinct good rows,
sessions by a silence of 30 minutes, each user's events in order as lists, in one Parquet file.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NEVER = ("2100-01-01", "2100-01-02", "2100-01-03")
DOCUMENT = {
    "name": "bench",
    "source": {
        "columns": {
            "item_id": "article_id",
            "context_country": "country",
            "context_referrer": "referrer_type",
        },
        "action": "click",
    },
    "memory": {"view": {"actions": ["click"]}},
    "requests": {"labels": ["click"], "context": ["country", "referrer"]},
}
"""The clicks of a news site; no requests are made before `warmup`, which is never."""


def polars(log: Path, out: Path) -> int:
    """Users, by a lazy query."""
    import polars as pl

    names = ("user_id", "session_id", "article_id")
    rows = pl.scan_parquet(log / "*.parquet").select(
        *(pl.col(name).cast(pl.String) for name in names),
        pl.col("ts").dt.cast_time_unit("ms"),
        "country",
        "referrer_type",
    )
    good = rows.drop_nulls(["user_id", "article_id", "ts"]).unique()
    good = good.sort("user_id", "ts", "article_id")
    silent = pl.col("ts").diff() > pl.duration(minutes=30)
    begins = (silent | (pl.col("user_id") != pl.col("user_id").shift())).fill_null(True)
    lists = good.with_columns(session=begins.cum_sum()).group_by("user_id", maintain_order=True)
    users = lists.agg("article_id", "ts", "session_id", "session", "country").collect()
    users.write_parquet(out)
    return len(users)


def duckdb(log: Path, out: Path) -> int:
    """Users, by a query in SQL."""
    import duckdb as duck

    by_time = "order by ts, article_id"
    lists = ", ".join(
        f"list({name} {by_time}) as {name}"
        for name in ("article_id", "ts", "session_id", "session", "country")
    )
    query = f"""
        with good as (
            select distinct user_id::varchar as user_id, session_id::varchar as session_id,
                article_id::varchar as article_id, date_trunc('milliseconds', ts) as ts,
                country, referrer_type
            from '{log}/*.parquet'
            where user_id is not null and article_id is not null and ts is not null
        ), begun as (
            select *, coalesce(ts - lag(ts) over mine > interval 30 minutes, true) as begins
            from good window mine as (partition by user_id {by_time})
        ), told as (
            select *, sum(begins::int) over (partition by user_id {by_time}
                rows unbounded preceding) as session from begun
        )
        select user_id, {lists} from told group by user_id order by user_id
    """  # paths of our own
    with duck.connect() as connection:
        connection.execute("set threads = 2")
        connection.execute(f"copy ({query}) to '{out}' (format parquet, compression zstd)")
        found = connection.execute(f"select count(*) from '{out}'").fetchall()
    return int(found[0][0])


@contextmanager
def recorded(seconds: dict[str, float]) -> Iterator[None]:
    """The job's steps tell their seconds here instead of on the console."""
    from jobs import console

    plain = console.step

    @contextmanager
    def step(title: str) -> Iterator[console.Note]:
        begin = time.perf_counter()
        yield console.Note()
        seconds[title] = time.perf_counter() - begin

    console.step = step
    try:
        yield
    finally:
        console.step = plain


def ours(log: Path, out: Path) -> dict[str, Any]:
    """`jobs.prepare` as it runs, with an object store of 100 MB and without requests.

    Then one more day is added, which lies beside the folder of the log.
    """
    from configs.load import Document
    from jobs import console, prepare

    given = {**DOCUMENT, "runs": str(out)}
    given["source"] = {**DOCUMENT["source"], "path": str(log)}
    times = dict(zip(("warmup", "validate_from", "test_from"), NEVER, strict=True))
    given["requests"] = {**DOCUMENT["requests"], **times}
    begin = time.perf_counter()
    steps: dict[str, float] = {}
    with console.ray_session(num_cpus=2, object_store_mb=100):
        ready = time.perf_counter()
        with recorded(steps):
            ledger = without_requests(prepare, Document.model_validate(given))
        done = time.perf_counter()
        shutil.copy(log.with_name("day"), log / "day.parquet")
        without_requests(prepare, Document.model_validate(given))
        day = time.perf_counter() - done
    found = {"users": ledger["users"], "steps": steps, "ray": ready - begin}
    return {**found, "job": done - ready, "day": day}


def without_requests(prepare: Any, document: Any) -> Any:
    """The job refuses data without requests; here there are none to be made."""
    from jobs.preparing import ledger

    ledger.check_splits = lambda *found: None
    return prepare.prepare(document)


def main() -> None:
    side, log, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    begin = time.perf_counter()
    if side == "ours":
        found = ours(log, out)
    else:
        users = {"polars": polars, "duckdb": duckdb}[side](log, out / "users.parquet")
        found = {"users": users, "job": time.perf_counter() - begin}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
