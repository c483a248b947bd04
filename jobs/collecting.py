"""Files of the events that a service took, without what was forgotten since.

Every file is whole or not there. One run at a time writes to a folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.files import alone, whole
from models.events import INTERACTION, SCHEMA, keys64
from models.keys import keys_of
from models.stores.following import EventLog
from models.stores.tombstones import Graves, Tombstones, by_user, join, user_key

TOMBSTONES = "_tombstones.parquet"
"""Columns `hash` (binary) and `until` (milliseconds): see `models.stores.tombstones`."""
_LOCK = "_lock"
_LATE = "late-*.parquet"
_EVENTS = re.compile(r"^events-(\d+)-(\d+)\.parquet$")
_TOMB_SCHEMA = pa.schema([("hash", pa.binary()), ("until", pa.int64())])


@dataclass(frozen=True)
class Collected:
    """What one run did."""

    num_events: int
    num_files: int
    num_late: int
    """Late events of the stores."""
    num_forgotten: int
    """Events taken out of files of earlier runs."""
    num_rewritten: int


def collect(logs: Mapping[str, EventLog], folder: Path, *, most_rows: int = 500_000) -> Collected:
    """Brings a folder up to date with stores.

    Args:
        logs: stores by name; the name is the folder of their files below `folder`. Sequence numbers
            are a store's own. Empty: the folder itself.
        most_rows: of a file; so many events are held in memory.

    Raises:
        ValueError: when another run is at work on the folder, or the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / _LOCK, f"another run collects into {folder}; let it end first"):
        _tidy(folder)
        buried = read_tombstones(folder)
        num_events = num_files = num_late = 0
        for name, log in logs.items():
            for table in _fresh(log, folder / name, buried, most_rows):
                num_events, num_files = num_events + len(table), num_files + 1
            num_late += _late(log, folder / name, buried)
        # After the events: what was forgotten while they were read is known by now.
        forgotten = join(buried, *(log.tombstones() for log in logs.values()))
        news = {key: ts for key, ts in forgotten.items() if buried.get(key) != ts}
        num_forgotten, num_rewritten = _forget(folder, news)
        _write_tombstones(folder, forgotten, buried)
    return Collected(num_events, num_files, num_late, num_forgotten, num_rewritten)


def read_tombstones(folder: Path) -> dict[bytes, int]:
    """What was forgotten and is out of the files already; nothing where no run has ended."""
    path = folder / TOMBSTONES
    if not path.is_file():
        return {}
    table = pq.read_table(path, partitioning=None)
    return dict(zip(table["hash"].to_pylist(), table["until"].to_pylist(), strict=True))


def last_of(folder: Path) -> int:
    """The sequence number that the files of a store reach to; 0 without files."""
    found = (_EVENTS.match(path.name) for path in folder.glob("events-*"))
    return max((int(match[2]) for match in found if match), default=0)


def _fresh(log: EventLog, folder: Path, buried: Tombstones, most_rows: int) -> Iterator[pa.Table]:
    """Writes what came after the last file, in files named by all numbers that they account for.

    Numbers have gaps, where events were forgotten; a name has none, so each begins where the one
    before ended.
    """
    first = last_of(folder) + 1
    batches: list[pa.RecordBatch] = []
    last = num = 0
    for last, batch in log.stream(first - 1):
        batches.append(batch)
        num += len(batch)
        if num >= most_rows:
            yield _write_events(log, folder, (first, last), batches, buried)
            first, batches, num = last + 1, [], 0
    if batches:
        yield _write_events(log, folder, (first, last), batches, buried)


def _write_events(
    log: EventLog,
    folder: Path,
    numbers: tuple[int, int],
    batches: list[pa.RecordBatch],
    buried: Tombstones,
) -> pa.Table:
    """Without what was forgotten since it was read, so that it is on no disk even for a moment."""
    table = without(pa.Table.from_batches(batches), join(buried, log.tombstones()))
    first, last = numbers
    _write(folder / f"events-{first:012}-{last:012}.parquet", table)
    return table


def _late(log: EventLog, folder: Path, buried: Tombstones) -> int:
    """Writes the late events that no file has yet; files are added to and not written again.

    A store keeps them without a sequence number. prepare removes those that came again in time.
    """
    batches = list(log.late_events())
    table = without(pa.Table.from_batches(batches, SCHEMA), join(buried, log.tombstones()))
    files = sorted(folder.glob(_LATE))
    known = [pq.read_table(path, columns=_OF_USER, partitioning=None) for path in files]
    if known:
        fresh = ~np.isin(_keys(table), np.concatenate([_keys(one) for one in known]))
        new = table.filter(pa.array(fresh))
    else:
        new = table
    if len(new):
        last = int(files[-1].stem.removeprefix("late-")) if files else 0
        _write(folder / f"late-{last + 1:06}.parquet", new.sort_by(_BY_USER))
    return len(table)


_OF_USER = ["user_id", "event_id"]
_BY_USER = [(name, "ascending") for name in _OF_USER]


def _keys(events: pa.Table) -> NDArray[np.uint64]:
    return keys_of(pc.binary_join_element_wise(*(events[name] for name in _OF_USER), "\0"))


def without(table: pa.Table, tombstones: Tombstones) -> pa.Table:
    """The events that no tombstone covers; the same table where it covers none."""
    graves = by_user(tombstones)
    if not graves or not len(table):
        return table
    users = table["user_id"].unique().to_pylist()
    found = {user: graves[user_key(user)] for user in users if user_key(user) in graves}
    if not found:
        return table
    covered = np.zeros(len(table), bool)
    rows = np.flatnonzero(pc.is_in(table["user_id"], value_set=pa.array(list(found))))
    some = table.select(["user_id", "ts", "item_id"]).take(pa.array(rows))
    records = np.zeros(len(some), INTERACTION)
    records["ts"] = some["ts"].cast(pa.int64()).to_numpy()
    records["item"] = keys64(some["item_id"])
    owners = np.asarray(some["user_id"].to_pylist())
    for user, told in found.items():
        own = np.flatnonzero(owners == user)
        covered[rows[own]] = Graves.of(user, told.items()).covers(records[own])
    return table.filter(pa.array(~covered)) if covered.any() else table


def _forget(folder: Path, news: Tombstones) -> tuple[int, int]:
    """Takes what new tombstones cover out of all files; gives the number of events and files."""
    num_events = num_files = 0
    paths = [*folder.rglob("events-*.parquet"), *folder.rglob(_LATE)] if news else []
    for path in sorted(paths):
        users = pq.read_table(path, columns=["user_id"], partitioning=None)["user_id"].unique()
        buried = by_user(news)
        if not any(user_key(user) in buried for user in users.to_pylist()):
            continue
        table = pq.read_table(path, partitioning=None)
        left = without(table, news)
        if len(left) < len(table):
            num_events, num_files = num_events + len(table) - len(left), num_files + 1
            _write(path, left)
    return num_events, num_files


def _write(path: Path, table: pa.Table) -> None:
    with whole(path) as fresh:
        pq.write_table(table, fresh, compression="zstd")
        with fresh.open("rb+") as file:
            os.fsync(file.fileno())  # the next run goes by names: no power cut may empty a file


def _write_tombstones(folder: Path, now: Tombstones, before: Tombstones) -> None:
    """Last of all: a run that is killed before it does its forgetting again."""
    if (folder / TOMBSTONES).is_file() and now == before:
        return
    keys = sorted(now)
    table = pa.table([keys, [now[key] for key in keys]], schema=_TOMB_SCHEMA)
    _write(folder / TOMBSTONES, table)


def _tidy(folder: Path) -> None:
    """Removes what a run that was killed left half-written: there may be people in it."""
    for path in folder.rglob(".*.parquet.*"):
        path.unlink()
