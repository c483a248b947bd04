"""What the benchmarks share: alternating repeats, medians with their spread, checks, one table."""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

T = TypeVar("T")
# A log file has no width of its own, and a benchmark is often written into one.
out = Console(highlight=False, width=None if Console().is_terminal else 130)


def alternate(sides: Mapping[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """Runs the sides in turn, A B A B A B: what else the machine does hits all of them alike."""
    found: dict[str, list[T]] = {name: [] for name in sides}
    for number in range(repeats):
        for name, side in sides.items():
            with out.status(f"{name}, {number + 1} of {repeats}"):
                found[name].append(side())
    return found


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float], form: str = ",.0f") -> str:
    """Median, lowest and highest: `1,203 (1,180–1,250)`."""
    low, middle, high = min(values), median(values), max(values)
    return f"{middle:{form}} ({low:{form}}–{high:{form}})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Of the medians, as `0.93x`."""
    return f"{median(ours) / median(theirs):.2f}x"


class Report:
    """One table, and the checks without which its figures would mean nothing."""

    def __init__(self, title: str, header: Sequence[str]) -> None:
        self._table = Table(title=title, title_justify="left", title_style="bold")
        for place, name in enumerate(header):
            side = "left" if place == 0 else "right"
            self._table.add_column(name, justify=side)
        self._checks: list[tuple[str, bool]] = []
        self._notes: list[str] = []

    def row(self, *cells: object) -> None:
        self._table.add_row(*map(str, cells))

    def line(self) -> None:
        self._table.add_section()

    def note(self, text: str) -> None:
        self._notes.append(text)

    def check(self, what: str, same: bool) -> None:
        """Both sides gave the same."""
        self._checks.append((what, bool(same)))

    def show(self) -> bool:
        """Prints; returns whether all checks held."""
        out.print(self._table)
        for what, same in self._checks:
            out.print(f"  {'same' if same else '[red]NOT THE SAME[/red]'}: {what}", soft_wrap=True)
        for text in self._notes:
            out.print(text, style="dim")
        return all(same for _, same in self._checks)


def show(*reports: Report) -> None:
    """Prints the tables and what they were measured on; exits with 1 when a check failed."""
    fine = [report.show() for report in reports]
    out.print(machine(), style="dim", soft_wrap=True)
    if not all(fine):
        raise SystemExit(1)


def machine() -> str:
    """Where and when this was measured; the load tells how far the figures can be trusted."""
    load = ", ".join(f"{part:.1f}" for part in os.getloadavg())
    parts = " ".join(f"{name} {version(name)}" for name in ("ray", "torch", "polars"))
    now = datetime.now(UTC).isoformat(timespec="minutes")
    return (
        f"{now}, {os.cpu_count()} cores ({platform.machine()}), load {load}, "
        f"Python {platform.python_version()}, {parts}"
    )


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for one benchmark, gone afterwards; on a disk, as durable writes are measured.

    Under `runs/`, or where `EBB_BENCH_DIR` says.
    """
    root = Path(os.environ.get("EBB_BENCH_DIR", "runs"))
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=root.resolve()) as folder:
        yield Path(folder)
