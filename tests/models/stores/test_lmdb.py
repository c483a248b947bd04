"""What is LMDB's own: its files, its limits, and many processes, some of them killed."""

from __future__ import annotations

import itertools
import multiprocessing
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from models.config import DAY_MS
from models.events import encode, key64
from models.memory import EMPTY
from models.memory import encode as to_bytes
from models.stores import MemoryStore, Outcome, StoreConfig, StoreFullError, write_snapshot
from models.stores.layout import Databases, join
from models.stores.tombstones import user_key
from tests.models.memory.strategies import SPEC
from tests.models.stores import writer
from tests.models.stores.world import (
    HORIZON,
    NOW,
    Clock,
    buckets,
    bytes_of,
    events,
    folded,
    ids,
    mixed,
    numbered,
    open_lmdb,
    recorded,
    streamed,
)

ERASED = Outcome.ERASED
USERS = [f"u{n}" for n in range(writer.NUM_USERS)]


def databases(folder: Path) -> dict[str, dict[bytes, bytes]]:
    """Everything in a closed store."""
    env = lmdb.open(str(folder), max_dbs=9, readonly=True)
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


@pytest.mark.parametrize("layout", [b"1", b"9"])
def test_another_layout_is_refused_and_says_what_to_do(tmp_path, layout):
    env = lmdb.open(str(tmp_path), max_dbs=9)
    with env.begin(write=True) as txn:
        meta = env.open_db(b"meta", txn=txn)
        txn.put(b"format", layout, db=meta)
        txn.put(b"spec", SPEC.digest().encode(), db=meta)
    env.close()
    for _ in range(2):  # the refusal let go of the files, and changed nothing in them
        with pytest.raises(
            ValueError, match=rf"layout {layout.decode()}; .* layout 3.* new folder"
        ):
            open_lmdb(tmp_path)
    env = lmdb.open(str(tmp_path), max_dbs=9)
    with env.begin() as txn:
        assert list(txn.cursor().iternext(values=False)) == [b"meta"]
    env.close()


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

    env = lmdb.open(str(tmp_path / "s"), max_dbs=9)
    (tmp_path / "copy").mkdir()
    env.copy(str(tmp_path / "copy"), compact=True)
    env.close()
    assert marker.encode() not in (tmp_path / "copy" / "data.mdb").read_bytes()


def test_a_restored_snapshot_leaves_nothing_of_those_erased_since(tmp_path):
    store = open_lmdb(tmp_path / "s")
    store.apply_many(mixed(range(60)))
    store.snapshot(tmp_path / "old.parquet")
    store.delete("u1")
    tombstones = store.tombstones()
    store.close()
    other = open_lmdb(tmp_path / "other")
    other.bury(tombstones)
    other.restore(tmp_path / "old.parquet")
    other.close()
    found = databases(tmp_path / "other")
    assert set(found["users"]) == {b"u0", b"u2"}
    numbers = set(found["users"].values())
    for name in ("states", "marks", "history", "interests"):
        assert {key[:8] for key in found[name]} == numbers


def _flat(found: dict[str, dict[bytes, bytes]]) -> list[bytes]:
    return [text for records in found.values() for item in records.items() for text in item]


def _size(found: dict[str, dict[bytes, bytes]]) -> int:
    records = {name: items for name, items in found.items() if name != "meta"}
    return sum(len(text) for text in _flat(records))


def test_a_full_store_says_so_still_reads_and_forgets(tmp_path):
    store = open_lmdb(tmp_path / "s", map_size_bytes=1 << 20)
    kept = pa.concat_tables(_until_full(store))
    assert len(kept)
    check(store, kept)  # nothing of the call that failed
    assert streamed(store) == ids(kept)
    with pytest.raises(StoreFullError, match=r"full: raise `map_size_bytes`, now 1048576"):
        store.apply_many(numbered(range(10_000, 10_250)))
    store.snapshot(tmp_path / "s.parquet")

    assert store.forget("u1", item_id="i4").num_events > 0
    left = without_item(kept, "u1", "i4")
    check(store, left)
    assert store.delete("u0").num_events > 0
    left = left.filter(pc.not_equal(left["user_id"], "u0"))
    check(store, left)
    assert set(store.apply_many(kept)) == {Outcome.DUPLICATE, Outcome.ERASED}
    more = numbered(range(10_001, 10_250, 3))  # u2's, in the room that is free now
    assert set(store.apply_many(more)) == {Outcome.ACCEPTED}
    store.close()

    store = open_lmdb(tmp_path / "s", map_size_bytes=1 << 23)
    check(store, pa.concat_tables([left, more]))
    assert set(store.apply_many(numbered(range(20_000, 20_250)))) == {Outcome.ACCEPTED, ERASED}
    store.close()


def check(store: MemoryStore, table: pa.Table) -> None:
    """Each reading gives what these events make."""
    for user in ("u0", "u1", "u2"):
        assert store.get_many([user]) == [folded(table, user)]
        assert store.interactions(user).tobytes() == recorded(table, user).tobytes()
    assert sorted(streamed(store)) == sorted(ids(table))


def without_item(table: pa.Table, user_id: str, item_id: str) -> pa.Table:
    own, same = pc.equal(table["user_id"], user_id), pc.equal(table["item_id"], item_id)
    return table.filter(pc.invert(pc.and_(own, same)))


def _until_full(store: MemoryStore) -> Iterator[pa.Table]:
    """What was acknowledged before not one event more did fit."""
    first = 0
    for size in (250, 25, 1):
        for low in itertools.count(first, size):
            table = numbered(range(low, low + size))
            try:
                store.apply_many(table)
            except StoreFullError:
                first = low
                break
            yield table


def test_a_call_that_does_not_fit_fails_alone(tmp_path):
    store = open_lmdb(tmp_path, map_size_bytes=1 << 20)
    tables = [numbered([n]) for n in range(40)]
    tables[20:20] = [numbered(range(1000, 9000))]
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(store.apply_many, table) for table in tables]
    errors = [one.exception() for one in running]
    assert [n for n, error in enumerate(errors) if error] == [20]
    assert isinstance(errors[20], StoreFullError)
    assert sorted(streamed(store)) == sorted(f"e{n}" for n in range(40))
    store.close()


def test_a_restore_that_does_not_fit_leaves_the_store_empty(tmp_path):
    table = numbered(range(30))
    state, history = folded(table, "u0"), recorded(table, "u0")
    rows = [(f"u{n:04}", state, history) for n in range(3000)]
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


@pytest.mark.slow
def test_a_writer_killed_200_times_loses_nothing_and_applies_nothing_twice(tmp_path, processes):
    random_ = random.Random(7)
    sure = [0] * writer.THREADS  # of each thread all events before it were acknowledged
    for seed in range(200):
        firsts = [max(first - random_.randrange(10), 0) for first in sure]  # some are sent again
        process, pipe = started(processes, writer.write_on, tmp_path, firsts, seed)
        pipe.recv_bytes()
        time.sleep(random_.random() * 0.08)
        process.kill()
        process.join()
        for said in _rest(pipe):
            thread, number = map(int, said.split())
            sure[thread] = max(sure[thread], number)
        _check(tmp_path, sure, whole=seed % 20 == 19)
    assert min(sure) > 20  # the writers did get to work, on however busy a machine
    store = open_lmdb(tmp_path)
    for thread, number in enumerate(sure):
        assert set(store.apply_many(writer.sent(thread, range(number)))) == {Outcome.DUPLICATE}
    store.close()


def _rest(pipe: Connection) -> list[bytes]:
    """What a killed process had still said."""
    said = []
    try:
        while True:
            said.append(pipe.recv_bytes())
    except (EOFError, OSError):
        return said


def _check(folder: Path, sure: list[int], *, whole: bool) -> None:
    """Each acknowledged event is there once; if asked, all that is there is the fold of the events.

    What was lost might come with the next writer, who sends the last ones again, so those are
    looked for after each kill. What was applied twice stays so.
    """
    store = open_lmdb(folder)
    stored = np.concatenate([store.interactions(user)["event"] for user in USERS])
    assert len(np.unique(stored)) == len(stored)
    for thread, number in enumerate(sure):
        last = writer.sent(thread, range(max(number - 30, 0), number))
        assert np.isin(encode(last, buckets)["event"], stored).all()
    if whole:
        found = pa.concat_tables([store.history(user) for user in USERS])
        numbers = sorted(int(event[1:]) for event in ids(found))
        for thread in range(writer.THREADS):
            own = [n // writer.THREADS for n in numbers if n % writer.THREADS == thread]
            assert own == list(range(len(own)))  # no gap, none twice
        assert bytes_of(store, *USERS) == [to_bytes(folded(found, user), SPEC) for user in USERS]
        assert sorted(streamed(store)) == sorted(ids(found))
    store.close()


@pytest.mark.slow
def test_a_killed_eraser_has_erased_whole_users_and_all_that_it_said(tmp_path, processes):
    random_, table = random.Random(8), mixed(range(3000), num_users=300)
    users = [f"u{n}" for n in range(300)]
    store = open_lmdb(tmp_path)
    store.apply_many(table)
    store.close()
    sure = 0
    for _ in range(20):
        process, pipe = started(processes, writer.erase_on, tmp_path, users[sure:])
        pipe.recv_bytes()
        time.sleep(random_.random() * 0.02)
        process.kill()
        process.join()
        sure += max([0, *map(int, _rest(pipe))])
        store = open_lmdb(tmp_path)
        gone = [user for user in users if user_key(user) in store.tombstones()]
        assert gone == users[: len(gone)]
        assert sure <= len(gone) <= sure + 1  # one may be gone that was not told of
        rest = table.filter(pc.invert(pc.is_in(table["user_id"], pa.array(gone, pa.string()))))
        assert sorted(streamed(store)) == sorted(ids(rest))
        assert [user for user, _ in store.scan()] == sorted(users[len(gone) :])
        store.close()
    assert 0 < sure < 300
