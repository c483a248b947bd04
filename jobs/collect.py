"""collect: the events that the service took, as files that prepare reads as they are."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import console

if TYPE_CHECKING:
    from jobs.collecting import Collected
    from models.stores.following import EventLog

To = Annotated[Path, typer.Option("--to", help="The folder to collect into; made when missing.")]
Store = Annotated[
    Path | None,
    typer.Option("--store", help="The service's store folder (store.path), or one store in it."),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="The service's YAML (configs/serve.yaml), to find its store."),
]


def main(to: To, store: Store = None, config: Config = None) -> None:
    """Collects the events that the service took, for the next training.

    \b
    Writes Parquet files of the event contract, which jobs.prepare reads without any mapping:
      <store>/events-<first>-<last>.parquet   by sequence number; a rerun goes on after the last
      <store>/late-<n>.parquet                 events that came too late to be served
      _tombstones.parquet                     what was forgotten, as hashes
    What people had forgotten since is taken out of the files collected before. It may run while
    the service runs, and be killed at any moment.

    \b
    Examples:
      python -m jobs.collect --store runs/online_retail/store --to runs/online_retail/log
      python -m jobs.collect --config configs/serve.yaml --to runs/online_retail/log
      python -m jobs.prepare --config mine.yaml --set source.path=runs/online_retail/log
    """  # noqa: D301  # the backspace tells click to keep the lines of a paragraph
    if (store is None) == (config is None):
        raise ValueError("collect from where? Give --store or --config, one of them")
    from jobs.collecting import collect

    with ExitStack() as opened:
        logs = logs_of_config(config) if config else logs_of_folder(store or Path())
        for log in logs.values():
            opened.callback(log.close)
        with console.step("collect events") as note:
            done = collect(logs, to)
            note(f"{done.num_events:,} new ones of {len(logs)} store(s)")
    show(done)
    console.out.print(f"collected: {to}", soft_wrap=True)


def show(done: Collected) -> None:
    """What was collected, as a table."""
    rows = [
        ("new events", done.num_events),
        ("new files", done.num_files),
        ("late events", done.num_late),
        ("events forgotten since", done.num_forgotten),
        ("files written anew for it", done.num_rewritten),
    ]
    console.table("collected", ["", ""], rows)


def logs_of_folder(path: Path) -> dict[str, EventLog]:
    """The store in a folder, named by nothing, or the stores in its folders by their names.

    Raises:
        ValueError: when there is none.
    """
    from models.stores.following import LmdbLog

    if (path / "data.mdb").is_file():
        return {"": LmdbLog(path)}
    found = sorted(file.parent for file in path.glob("*/data.mdb"))
    if not found:
        raise ValueError(
            f"--store: there is no store in {path} (no data.mdb, here or one folder below); the "
            "service makes it when it starts: see store.path in its config"
        )
    return {folder.name: LmdbLog(folder) for folder in found}


def logs_of_config(path: Path) -> dict[str, EventLog]:
    """The stores that a service's config names.

    Raises:
        ValueError: when the config names no store, or none that can be opened.
    """
    import yaml
    from pydantic import TypeAdapter

    from models.stores.opening import MemoryConfig, open_memory
    from models.stores.protocol import StoreConfig

    if not path.is_file():
        raise ValueError(f"--config: there is no file {path}")
    found = yaml.safe_load(path.read_text()) or {}
    applications = found.get("applications", []) if isinstance(found, dict) else []
    told = [app.get("args", {}) for app in applications if "store" in app.get("args", {})]
    if not told:
        raise ValueError(f"--config: {path} has no application with a store in its args")
    store = TypeAdapter(MemoryConfig).validate_python(told[0]["store"])
    if isinstance(store, StoreConfig):
        return logs_of_folder(store.path)
    import json

    from models.model import ModelConfig
    from models.stores import Snapshot

    release = Path(told[0].get("release", ""))
    if not (release / "config.json").is_file():
        raise ValueError(f"--config: {path} names the release {release}, which is not there")
    model = json.loads((release / "config.json").read_text())["model"]
    spec = ModelConfig.model_validate(model).memory.state
    name = Snapshot(release / "memory.parquet", spec).info.snapshot_id
    return {name: open_memory(store, spec=spec, name=name)}


if __name__ == "__main__":
    console.run(main)
