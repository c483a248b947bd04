"""Serves a release on this machine until Ctrl-C or SIGTERM: `python -m serve --config FILE`."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from serve.launch import Plan

out = Console(highlight=False, soft_wrap=True)
err = Console(highlight=False, soft_wrap=True, stderr=True)


def main(
    config: Annotated[Path, typer.Option(help="A Ray Serve config.")] = Path("configs/serve.yaml"),
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Overrides one of the application's args."),
    ] = None,
    port: Annotated[int | None, typer.Option(help="Instead of http_options.port.")] = None,
) -> None:
    """Serve a release until Ctrl-C or SIGTERM, on the Ray of RAY_ADDRESS or one of its own."""
    from serve import launch

    launch.set_environment()
    plan = launch.read_plan(config, set_ or [], port=port)
    launch.check_before_start(plan)
    with ExitStack() as stack:
        # A SIGTERM on the way up unwinds as Ctrl-C does. Ray sets a handler of its own, too.
        signal.signal(signal.SIGTERM, _interrupt)
        with _step("starting Ray"):
            stack.enter_context(launch.ray_session(plan))
        signal.signal(signal.SIGTERM, _interrupt)
        with _step(f"loading {plan.config.release}"):
            launch.deploy(plan)
        _introduce(plan)
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        stop.wait()
        out.print("stopping")


def _introduce(plan: Plan) -> None:
    """Waits for the first answer over HTTP, then says what to do with the service."""
    from serve import welcome

    client = welcome.Client(plan.url)
    with _step(f"waiting for {plan.url}"):
        client.wait(60)
        lines = welcome.introduction(client, plan.config.release)
    table = welcome.report(plan.config.release)
    if table:
        out.print(f"\n{table}", markup=False)
    out.print(f"\n[bold]Ebb serves at {plan.url}[/bold] (its API: {plan.url}/docs). Try:\n")
    for title, line in lines:
        out.print(f"# {title}", style="dim", markup=False)
        out.print(line, markup=False)
    out.print("\nCtrl-C or `make stop` ends it.")


@contextmanager
def _step(title: str) -> Iterator[None]:
    """A line of progress: turning while the step runs, then with its seconds."""
    begin = time.monotonic()
    if out.is_terminal:
        with out.status(title):
            yield
    else:
        out.print(f"  {title} ...")
        yield
    out.print(f"  {title:<64} {time.monotonic() - begin:6.1f} s")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(context_settings={"help_option_names": ["-h", "--help"]})(main)
    try:
        app(prog_name="python -m serve")
    except ValueError as error:
        err.print(f"error: {error}", style="red", markup=False)
        raise SystemExit(2) from None
