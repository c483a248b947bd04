"""What is LMDB's own: its files, its limits, and many processes, some of them killed."""

from __future__ import annotations

import itertools
import multiprocessing
import random
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow as pa
import pytest

from models.config import DAY_MS
from models.events import key64
from models.memory import EMPTY
from models.memory import encode as to_bytes
from models.stores import MemoryStore, Outcome, StoreConfig, StoreFullError, write_snapshot
from models.stores.layout import Databases, join
from tests.models.memory.strategies import SPEC
from tests.models.stores import writer
from tests.models.stores.world import (
    HORIZON,
    NOW,
    Clock,
    bytes_of,
    events,
    folded,
    ids,
    numbered,
    open_lmdb,
    streamed,
)

USERS = [f"u{n}" for n in range(writer.NUM_USERS)]


def databases(folder: Path) -> dict[str, dict[bytes, bytes]]:
    """Everything in a closed store."""
    env = lmdb.open(str(folder), max_dbs=8, readonly=True)
    found = {}
    with env.begin() as txn:
        for name in Databases.names():
            found[name] = dict(txn.cursor(env.open_db(name.encode(), txn=txn, create=False)))
    env.close()
    return found


def test_a_folder_is_made_and_a_horizon_is_read_as_text(tmp_path):
    config = StoreConfig.model_validate({"path": tmp_path, "dedup_horizon": "36h"})
    assert config.dedup_horizon == 1.5 * DAY_MS
    assert config.sync
    with pytest.raises(ValueError, match="map_size_bytes"):
        StoreConfig(path=tmp_path, map_size_bytes=10)
    open_lmdb(tmp_path / "a" / "b").close()
    assert (tmp_path / "a" / "b" / "data.mdb").exists()


def test_another_spec_is_refused_and_says_what_to_do(tmp_path):
    open_lmdb(tmp_path).close()
    other = SPEC.model_copy(update={"ring": 4})
    with pytest.raises(ValueError, match=rf"{SPEC.digest()}, not {other.digest()}.*jobs\.prepare"):
        open_lmdb(tmp_path, spec=other)
    open_lmdb(tmp_path).close()  # the refusal let go of the files


def test_another_layout_is_refused(tmp_path):
    open_lmdb(tmp_path).close()
    env = lmdb.open(str(tmp_path), max_dbs=8)
    with env.begin(write=True) as txn:
        txn.put(b"format", b"9", db=env.open_db(b"meta", txn=txn))
    env.close()
    with pytest.raises(ValueError, match="layout 9; this release reads layout 1"):
        open_lmdb(tmp_path)


def test_deletion_leaves_nothing(tmp_path):
    marker, clock = "find-me-3f9a", Clock()
    rows = [
        {"event_id": f"{marker}-{n}", "user_id": marker, "query": marker, "item_id": marker}
        for n in range(20)
    ]
    store = open_lmdb(tmp_path / "s", clock)
    store.apply_many(numbered(range(30)))
    store.apply_many(events(rows))
    store.apply_many(events([{**rows[0], "event_id": f"{marker}-late", "ts": NOW - 2 * HORIZON}]))
    store.close()
    before = databases(tmp_path / "s")
    number = before["users"][marker.encode()]
    traces = [marker.encode(), key64(marker).to_bytes(8, "little")]
    traces += [join(key64(f"{marker}\0{marker}-{n}")) for n in range(20)]
    assert all(any(trace in found for found in _flat(before)) for trace in traces)

    store = open_lmdb(tmp_path / "s", clock)
    receipt = store.delete(marker)
    assert (receipt.num_events, receipt.num_marks) == (21, 20)
    store.apply_many(events(rows))  # a replay leaves nothing either
    store.close()
    after = databases(tmp_path / "s")
    assert not [trace for trace in traces if any(trace in found for found in _flat(after))]
    for name in ("states", "marks", "history", "late"):
        assert before[name]
        assert not [key for key in after[name] if key.startswith(number)]
    assert sum(len(after[name]) for name in ("history", "stream", "marks")) == 90
    gone = _size(before) - _size(after) + 24  # the tombstone has come
    assert receipt.num_bytes == gone
    assert len(after["tombstones"]) == 1

    env = lmdb.open(str(tmp_path / "s"), max_dbs=8)
    (tmp_path / "copy").mkdir()
    env.copy(str(tmp_path / "copy"), compact=True)
    env.close()
    assert marker.encode() not in (tmp_path / "copy" / "data.mdb").read_bytes()


def _flat(found: dict[str, dict[bytes, bytes]]) -> list[bytes]:
    return [text for records in found.values() for item in records.items() for text in item]


def _size(found: dict[str, dict[bytes, bytes]]) -> int:
    records = {name: items for name, items in found.items() if name != "meta"}
    return sum(len(text) for text in _flat(records))


def test_expired_marks_do_not_pile_up(tmp_path):
    clock = Clock()
    store = open_lmdb(tmp_path, clock)
    for n in range(60):
        clock.now += DAY_MS // 2  # the horizon holds 14 calls, or 15 with both ends
        rows = [{"event_id": f"{n}-{k}", "user_id": f"u{k}", "ts": clock.now} for k in range(50)]
        store.apply_many(events(rows))
    store.close()
    live = 15 * 50
    assert live <= len(databases(tmp_path)["marks"]) <= 2 * live


def test_a_full_store_says_so_and_still_reads(tmp_path):
    store = open_lmdb(tmp_path, map_size_bytes=1 << 20)
    kept = pa.concat_tables(_until_full(store))
    assert len(kept)
    assert store.get_many(["u0"]) == [folded(kept, "u0")]
    assert streamed(store) == ids(kept)  # nothing of the call that failed
    store.snapshot(tmp_path / "s.parquet")
    store.close()

    store = open_lmdb(tmp_path, map_size_bytes=1 << 23)
    more = numbered(range(len(kept), len(kept) + 250))
    assert set(store.apply_many(more)) == {Outcome.ACCEPTED}
    store.close()


def _until_full(store: MemoryStore) -> Iterator[pa.Table]:
    """What was acknowledged before the store was full."""
    for low in itertools.count(0, 250):
        table = numbered(range(low, low + 250))
        try:
            store.apply_many(table)
        except StoreFullError as full:
            if "raise `map_size_bytes`, now 1048576" in str(full):
                return
            raise
        yield table


def test_a_restore_that_does_not_fit_leaves_the_store_empty(tmp_path):
    state, marks = folded(numbered(range(30)), "u0"), np.arange(1, 11, dtype=np.uint64)
    rows = [(f"u{n:04}", state, marks, np.full(10, NOW)) for n in range(3000)]
    write_snapshot(tmp_path / "s.parquet", rows, spec=SPEC, marks_from=0)
    store = open_lmdb(tmp_path / "small", map_size_bytes=1 << 20)
    with pytest.raises(StoreFullError):
        store.restore(tmp_path / "s.parquet")
    assert (store.num_users, store.get_many(["u0000"])) == (0, [EMPTY])
    store.close()


@pytest.fixture(scope="module")
def processes() -> Any:
    """New processes forked from a small server that has imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.models.stores.writer"])
    return context


def started(context: Any, target: Any, *args: Any) -> tuple[Any, Connection]:
    """A process that runs `target(*args, pipe)`, and our end of the pipe."""
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(*args, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def test_a_map_that_another_process_made_larger_is_told_plainly(tmp_path, processes):
    store = open_lmdb(tmp_path, map_size_bytes=1 << 20)
    process, pipe = started(processes, writer.write_much, tmp_path)
    assert pipe.recv_bytes() == b"done"
    process.join()
    with pytest.raises(RuntimeError, match="set the same value in every process"):
        store.get_many(["u0"])
    store.close()
    store = open_lmdb(tmp_path, map_size_bytes=1 << 26)
    assert store.num_users == 100
    store.close()


def test_two_processes_that_write_at_once_lose_nothing(tmp_path, processes):
    ends = [(0, 300), (200, 500)]  # a hundred events are sent by both
    running = [started(processes, writer.write_range, tmp_path, *end) for end in ends]
    for _, pipe in running:
        assert pipe.recv_bytes() == b"ready"
    accepted = [int(pipe.recv_bytes()) for _, pipe in running]
    for process, _ in running:
        process.join()
    assert sum(accepted) == 500
    store = open_lmdb(tmp_path)
    whole = numbered(range(500), writer.NUM_USERS)
    assert store.get_many(USERS) == [folded(whole, user) for user in USERS]
    assert sorted(streamed(store)) == sorted(ids(whole))
    store.close()


def test_a_killed_writer_loses_nothing_and_applies_nothing_twice(tmp_path, processes):
    random_ = random.Random(7)
    sure = 0  # all events before it were acknowledged
    for seed in range(20):
        resend = max(sure - random_.randrange(10), 0)
        process, pipe = started(processes, writer.write_on, tmp_path, resend, seed)
        pipe.recv_bytes()
        time.sleep(random_.random() * 0.1)
        process.kill()
        process.join()
        sure = max([sure, *_rest(pipe)])
        _check(tmp_path, sure)
    assert sure > 100  # the writers did get to work
    store = open_lmdb(tmp_path)
    whole = numbered(range(sure), writer.NUM_USERS)
    assert set(store.apply_many(whole)) == {Outcome.DUPLICATE}
    store.close()


def _rest(pipe: Connection) -> list[int]:
    """What a killed process had still said."""
    said = []
    try:
        while True:
            said.append(int(pipe.recv_bytes()))
    except (EOFError, OSError):
        return said


def _check(folder: Path, sure: int) -> None:
    """Each acknowledged event is there once, and the states are the fold of the histories."""
    store = open_lmdb(folder)
    found = pa.concat_tables([store.history(user) for user in USERS])
    numbers = sorted(int(event[1:]) for event in ids(found))
    assert numbers == list(range(len(numbers)))  # one sender in turn: no gap, none twice
    assert len(numbers) >= sure
    assert bytes_of(store, *USERS) == [to_bytes(folded(found, user), SPEC) for user in USERS]
    assert sorted(streamed(store)) == sorted(ids(found))
    store.close()
