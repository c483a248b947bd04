"""What every job shares: its options, its progress and tables, its exit code, its Ray.

Exit codes: 0 done; 2 something in the configuration or the input is wrong, told in one line; 1 a
fault of ours, with its traceback.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.status import Status
from rich.table import Table

ConfigFile = Annotated[
    Path, typer.Option("--config", help="The run's YAML document; configs/ holds examples.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Overrides one value: --set a.b=c; may be repeated."
    ),
]

# Ray ends a worker after a second of idling, and a new one takes seconds to import what it needs.
KEEP_WORKERS = {"idle_worker_killing_time_threshold_ms": 600_000}

out = Console(highlight=False)
err = Console(highlight=False, stderr=True)


def run(command: Callable[..., None], args: Sequence[str] | None = None) -> None:
    """Runs one command as a program and exits with its code.

    A `ValueError` is for the caller: what was wrong, where and what to do. It becomes a line; with
    `EBB_TRACEBACK=1` in the environment it keeps its traceback, as everything else does.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(context_settings={"help_option_names": ["-h", "--help"]})(command)
    module = sys.modules[command.__module__]
    name = getattr(getattr(module, "__spec__", None), "name", command.__module__)
    try:
        app(args, prog_name=f"python -m {name}")
    except ValueError as error:
        if os.environ.get("EBB_TRACEBACK") == "1":
            raise
        # Ray hands on an error of a task with the task's traceback; its cause is what was said.
        fail(str(getattr(error, "cause", None) or error))


def fail(message: str) -> None:
    """Says what is wrong and exits with code 2."""
    for line in message.splitlines():
        err.print(f"error: {line}", style="red", markup=False, soft_wrap=True)
    raise SystemExit(2)


class Note:
    """What a step has to say for itself: how far it is, and what came of it when it is done."""

    def __init__(self, title: str = "", status: Status | None = None) -> None:
        self.text, self._title, self._status = "", title, status

    def __call__(self, text: str) -> None:
        """Sets the text, such as `541,909 rows`."""
        self.text = text

    def progress(self, done: int, total: int) -> None:
        """Shows how many pieces of the work are done."""
        if self._status is not None:
            self._status.update(f"{self._title}: {done} of {total}")
        elif total >= _MANY and done * 10 // total > (done - 1) * 10 // total:  # in a log: tenths
            out.print(f"    {done:,} of {total:,}", soft_wrap=True)


_MANY = 20


@contextmanager
def step(title: str) -> Iterator[Note]:
    """A line of progress: turning while the step runs, then with its note and its seconds."""
    begin = time.monotonic()
    with out.status(title) if out.is_terminal else _announced(title) as status:
        note = Note(title, status)
        yield note
    seconds = time.monotonic() - begin
    middle = f"[dim]{note.text}[/dim]" if note.text else ""
    out.print(f"  {title:<34} {middle:<48} {seconds:6.1f} s", soft_wrap=True)


@contextmanager
def _announced(title: str) -> Iterator[None]:
    """In a log there is nothing to turn: a slow step says that it began."""
    out.print(f"  {title} ...", soft_wrap=True)
    yield


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A summary: the first column names, the others hold figures."""
    grid = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for place, name in enumerate(header):
        grid.add_column(name, justify="left" if place == 0 else "right")
    for row in rows:
        grid.add_row(*(_shown(value) for value in row))
    # Figures are never cut, not even in a log, which claims to have 80 columns.
    wanted = out.measure(grid, options=out.options.update(max_width=1000)).maximum
    Console(file=out.file, highlight=False, width=max(out.width, wanted)).print(grid)


def _shown(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextmanager
def ray_session(*, num_cpus: int = 2, object_store_mb: int = 300) -> Iterator[None]:
    """A Ray to work on: the one that is running, else one of our own for the time being.

    Joins what the process already has, or the cluster of `RAY_ADDRESS` (set under
    `ray job submit`). Otherwise it starts a small one here and stops that, and only that.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # else a local start asks for a token
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
    else:
        start_ray(num_cpus=num_cpus, object_store_mb=object_store_mb)
    try:
        yield
    finally:
        ray.shutdown()


def start_ray(*, num_cpus: int, object_store_mb: int, attempts: int = 3) -> None:
    """Starts a small Ray on this machine, for this process to shut down.

    Ray gives a node 30 s to come up, whatever the machine is busy with, and then gives up: so it
    is tried again.
    """
    import ray

    for left in reversed(range(attempts)):
        try:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                object_store_memory=object_store_mb * 1_000_000,
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
                _system_config=KEEP_WORKERS,
            )
        except Exception as error:  # Ray raises no narrower one
            if not left or "timed out during startup" not in str(error):
                raise
            ray.shutdown()
        else:
            return
