"""prepare on Ray Data beside the same result with Polars and the same pure functions, no Ray."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.dataset as pads

from configs.load import Document, load
from jobs import console
from jobs.prepare import prepare
from tests.benchmarks import table
from tests.benchmarks.one_process import STEPS, one_process, without_features

REPEATS = 3
RAY, ONE, BARE = "Ray Data", "one process", "one process without user features"


@contextmanager
def recorded(seconds: dict[str, float]) -> Iterator[None]:
    """The job's steps tell their seconds here instead of on the console."""
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


def timed(run: Any, document: Document) -> dict[str, Any]:
    """Seconds of a run, of its steps, and its ledger."""
    steps: dict[str, float] = {}
    begin = time.perf_counter()
    with recorded(steps):
        ledger = run(document)
    return {"seconds": time.perf_counter() - begin, "steps": steps, "ledger": ledger}


def same(a: Path, b: Path, name: str, *keys: str) -> bool:
    """Whether two folders hold equal rows, whatever files and order they are in."""
    order = [(key, "ascending") for key in keys]
    left, right = (pads.dataset(f / "prepared" / name).to_table().sort_by(order) for f in (a, b))
    return left.combine_chunks().equals(right.select(left.column_names).combine_chunks())


def main() -> None:
    with table.scratch() as folder:
        places = {name: folder / name.replace(" ", "-") for name in (RAY, ONE, BARE)}
        sides = {
            name: partial(timed, run, load("configs/online_retail.yaml", [f"runs={places[name]}"]))
            for name, run in ((RAY, prepare), (ONE, one_process), (BARE, without_features))
        }
        begin = time.perf_counter()
        with console.ray_session():
            start = time.perf_counter() - begin
            first = sides[RAY]()["seconds"]
            sides[ONE]()  # its first call fills caches, too
            found = table.alternate(sides, REPEATS)
        report = table.Report(
            f"prepare, online_retail, {REPEATS} alternating runs: median (lowest–highest)",
            ["", RAY, ONE, "Ray : one"],
        )
        add_figures(report, found)
        report.line()
        report.row("Ray alone: start it, s", f"{start:.1f}", "-", "-")
        report.row("Ray alone: first call more than later ones, s", _more(first, found), "-", "-")
        add_checks(report, found, places[RAY] / "online_retail", places[ONE] / "online_retail")
        table.show(report)


def _more(first: float, found: dict[str, list[dict[str, Any]]]) -> str:
    return f"{first - table.median([run['seconds'] for run in found[RAY]]):.1f}"


def add_figures(report: table.Report, found: dict[str, list[dict[str, Any]]]) -> None:
    """Rows a second, seconds of all and of each step, and what the view of each request takes."""
    seconds = {name: [run["seconds"] for run in runs] for name, runs in found.items()}
    num_rows = found[ONE][0]["ledger"]["read"]
    rates = {name: [num_rows / s for s in took] for name, took in seconds.items()}
    report.row("rows a second", *(table.spread(rates[n]) for n in (RAY, ONE)), _ratio(rates))
    report.row("seconds", *(table.spread(seconds[n], ".2f") for n in (RAY, ONE)), _ratio(seconds))
    for step in STEPS:
        took = {name: [run["steps"][step] for run in runs] for name, runs in found.items()}
        cells = (table.spread(took[name], ".2f") for name in (RAY, ONE))
        report.row(f"  {step}, s", *cells, _ratio(took))
    report.line()
    report.row("seconds without user features", "-", table.spread(seconds[BARE], ".2f"), "-")
    share = 1 - table.median(seconds[BARE]) / table.median(seconds[ONE])
    report.row("share of the view of each request", "-", f"{share:.0%}", "-")


def _ratio(of: dict[str, list[float]]) -> str:
    return table.ratio(of[RAY], of[ONE])


def add_checks(
    report: table.Report, found: dict[str, list[dict[str, Any]]], a: Path, b: Path
) -> None:
    """Ledgers and files by content."""
    ledger = found[ONE][0]["ledger"]
    ledgers = [run["ledger"] for name in (RAY, ONE, BARE) for run in found[name]]
    requests, users = sum(ledger["requests"].values()), ledger["users"]
    report.check("the ledgers of all runs", all(each == ledger for each in ledgers))
    report.check(f"{users:,} users, histories and states", same(a, b, "users", "user_id"))
    report.check(
        f"{requests:,} requests, items, labels, features",
        same(a, b, "requests", "request_id", "user_id"),
    )
    report.check(f"{ledger['items']:,} items", same(a, b, "catalogue.parquet", "item_id"))
    wrong = sum(ledger["quarantined"].values())
    report.check(f"{wrong:,} rows in quarantine", same(a, b, "quarantine", "reason", "row"))


if __name__ == "__main__":
    main()
