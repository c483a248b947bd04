"""prepare on Ray Data beside Polars and DuckDB that do the same, as the log grows.

`python -m tests.benchmarks.bench_prepare --sizes 1 5 20` (millions of events; 1 and 5 by default).
Each side runs in a process of its own, in turn; its memory is watched from here.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import polars as pl

from tests.benchmarks import table

CLICKS = Path(__file__).parents[3] / "shared/data/news_clicks/clicks.parquet"
SIDES = {"ours": "Ray Data", "polars": "Polars", "duckdb": "DuckDB"}
SMALL = 10_000
DAY = 100_000
MILLION = 1_000_000


def grow(num: int, folder: Path) -> Path:
    """A log of so many clicks, and beside it a file `day` with the next ones.

    The real clicks again and again, each time of new people, eight days later.
    """
    columns = ["user_id", "session_id", "article_id", "ts", "country", "referrer_type"]
    real = pl.read_parquet(CLICKS, columns=columns)
    rounds = [
        real.with_columns(
            pl.col("user_id") + again * MILLION,
            pl.col("session_id") + again * 10**15,
            pl.col("article_id") + again * 1000,
            pl.col("ts") + pl.duration(days=8 * again),
        )
        for again in range(-(-(num + DAY) // len(real)))
    ]
    clicks = pl.concat(rounds).sort("ts")
    log = folder / "log"
    log.mkdir(parents=True)
    clicks.head(num).write_parquet(log / "clicks.parquet", row_group_size=500_000)
    clicks.slice(num, DAY).write_parquet(folder / "day")
    return log


def run(side: str, log: Path) -> dict[str, Any]:
    """One run: what it says, and the most memory that it held."""
    (log / "day.parquet").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=log.parent) as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.histories", side, str(log), out],
            stdout=subprocess.PIPE,
            text=True,
        )
        watch = Watch(child.pid)
        told, _ = child.communicate()
        peak = watch.stop()
    if child.returncode:
        raise SystemExit(f"{side} failed with code {child.returncode}")
    found: dict[str, Any] = json.loads(told.splitlines()[-1])
    return {**found, **peak}


class Watch(threading.Thread):
    """The memory of a process and all its descendants, looked at ten times a second (Linux).

    Memory of their own (anonymous and shared), not pages of files, which the system takes back.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self._over = pid, threading.Event()
        self.peak = {"all_mb": 0.0, "one_mb": 0.0}
        self.start()

    def run(self) -> None:
        while not self._over.wait(0.1):
            held = [_held_mb(pid) for pid in _family(self._pid)]
            self.peak["all_mb"] = max(self.peak["all_mb"], sum(held))
            self.peak["one_mb"] = max(self.peak["one_mb"], *held, 0.0)

    def stop(self) -> dict[str, float]:
        self._over.set()
        self.join()
        return self.peak


def _family(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it ended while we looked
        children.setdefault(parent, []).append(int(path.parent.name))
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def _held_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    held = (int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem")))
    return sum(held) / 1024


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--sizes", type=float, nargs="+", default=[1, 5], metavar="MILLIONS")
    asked.add_argument("--repeats", type=int, default=1)
    given = asked.parse_args()
    if not CLICKS.is_file():
        table.out.print(f"skipped: {CLICKS} is not there, and may not be shipped", soft_wrap=True)
        return
    found: dict[float, dict[str, list[dict[str, Any]]]] = {}
    with table.scratch() as folder:
        small = grow(SMALL, folder / "small")
        fixed = [run("ours", small) for _ in range(2)]
        for size in given.sizes:
            log = grow(round(size * MILLION), folder / f"{size:g}")
            sides = {side: (lambda side=side, log=log: run(side, log)) for side in SIDES}
            found[size] = table.alternate(sides, given.repeats)
            shutil.rmtree(log.parent)
    table.show(report(found, fixed))


def report(
    found: dict[float, dict[str, list[dict[str, Any]]]], fixed: list[dict[str, Any]]
) -> table.Report:
    """Seconds, memory, and the cost of one more million."""
    made = table.Report(
        "clean, sessions, histories (and, ours only, the state of every user)",
        ["", *SIDES.values(), "Ray Data : Polars"],
    )
    base = table.median([one["job"] for one in fixed])
    seconds = {
        s: {size: [r["job"] for r in runs[s]] for size, runs in found.items()} for s in SIDES
    }
    for size, runs in found.items():
        cells = [table.spread(seconds[side][size], ".1f") for side in SIDES]
        made.row(f"{size:g} million: seconds", *cells, _ratio(seconds, size, 0.0))
        less = f"{table.median(seconds['ours'][size]) - base:.1f}"
        made.row("  beyond Ray's fixed cost", less, "-", "-", _ratio(seconds, size, base))
        for step in runs["ours"][0]["steps"]:
            took = [run["steps"][step] for run in runs["ours"]]
            made.row(f"    {step}", table.spread(took, ".1f"), "-", "-", "-")
        took = [run["day"] for run in runs["ours"]]
        made.row(f"  a day of {DAY:,} more", table.spread(took, ".1f"), "-", "-", "-")
        for key, words in (("all_mb", "all processes"), ("one_mb", "the largest process")):
            cells = [f"{max(run[key] for run in runs[side]):,.0f}" for side in SIDES]
            made.row(f"  most memory of {words}, MB", *cells, "-")
        users = {run["users"] for side in SIDES for run in runs[side]}
        made.check(f"{size:g} million: {max(users):,} users on all sides", len(users) == 1)
        made.line()
    low, high = min(found), max(found)
    if low < high:
        slope = {
            side: (table.median(seconds[side][high]) - table.median(seconds[side][low]))
            / (high - low)
            for side in SIDES
        }
        cells = [f"{slope[side]:.2f}" for side in SIDES]
        over = f"{slope['ours'] / slope['polars']:.2f}x"
        made.row(f"seconds for each further million, {low:g} to {high:g}", *cells, over)
    started = table.median([one["ray"] for one in fixed])
    made.row("Ray alone: start it, s", f"{started:.1f}", "-", "-", "-")
    made.row(f"Ray alone: the job on {SMALL:,} events, s", f"{base:.1f}", "-", "-", "-")
    return made


def _ratio(seconds: dict[str, dict[float, list[float]]], size: float, base: float) -> str:
    ours = table.median(seconds["ours"][size]) - base
    return f"{ours / table.median(seconds['polars'][size]):.2f}x"


if __name__ == "__main__":
    main()
