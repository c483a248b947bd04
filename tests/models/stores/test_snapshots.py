"""Snapshots: what a batch build and a store write, and what a store makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.config import DAY_MS
from models.memory import EMPTY
from models.stores import Outcome, Snapshot, write_snapshot
from tests.models.memory.strategies import SPEC
from tests.models.stores.world import (
    HORIZON,
    NOW,
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

ACCEPTED, DUPLICATE = Outcome.ACCEPTED, Outcome.DUPLICATE
LATE, ERASED = Outcome.LATE, Outcome.ERASED


# -- snapshots --


def test_a_restored_store_is_the_store_byte_for_byte(store, other, tmp_path):
    table = numbered(range(3000), num_users=700)
    store.apply_many(table)
    store.delete("u3")
    info = store.snapshot(tmp_path / "a.parquet")
    assert other.restore(tmp_path / "a.parquet") == info
    assert (info.num_users, info.offset) == (699, 3000)
    times = zip(table["user_id"].to_pylist(), table["ts"].cast(pa.int64()).to_pylist(), strict=True)
    assert info.watermark == max(ts for user, ts in times if user != "u3")
    assert list(other.scan()) == list(store.scan())
    assert other.snapshot(tmp_path / "b.parquet") == info
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_events_in_a_snapshot_are_not_applied_again(store, other, clock, tmp_path):
    table = numbered(range(120))
    store.apply_many(table)
    store.snapshot(tmp_path / "s.parquet")
    other.restore(tmp_path / "s.parquet")
    before = bytes_of(store, "u0", "u1", "u2")
    assert other.apply_many(table) == [DUPLICATE] * 120
    more = numbered(range(100, 150))
    assert other.apply_many(more) == store.apply_many(more) == [DUPLICATE] * 20 + [ACCEPTED] * 30
    assert bytes_of(other, "u0", "u1", "u2") == bytes_of(store, "u0", "u1", "u2") != before


def test_snapshot_and_replay_of_the_stream_after_it_equal_the_live_store(store, other, tmp_path):
    store.apply_many(mixed(range(150)))
    store.forget("u0", item_id="i3")
    info = store.snapshot(tmp_path / "s.parquet")
    store.apply_many(mixed(range(150, 200)))
    store.forget("u1", item_id="i4")
    store.forget("u2", before_ms=NOW - 3 * DAY_MS)
    store.apply_many(mixed(range(200, 300), num_users=4))
    store.delete("u3")

    other.restore(tmp_path / "s.parquet")
    other.bury(store.tombstones())
    for _, batch in store.stream(after=info.offset):
        other.apply_many(pa.Table.from_batches([batch]))
    store.snapshot(tmp_path / "live.parquet")
    other.snapshot(tmp_path / "replayed.parquet")
    assert _content(tmp_path / "replayed.parquet")[1:] == _content(tmp_path / "live.parquet")[1:]
    users = "u0", "u1", "u2", "u3"
    assert bytes_of(other, *users) == bytes_of(store, *users)
    assert streamed(other, info.offset) == streamed(store, info.offset)


def test_histories_travel_with_a_snapshot(store, other, tmp_path):
    table = mixed(range(300))
    store.apply_many(table)
    store.snapshot(tmp_path / "s.parquet")
    other.restore(tmp_path / "s.parquet")
    for user in ("u0", "u1", "u2"):
        assert other.interactions(user).tobytes() == recorded(table, user).tobytes()
        for interests in ([], [0, 3], [1, 2]):
            near = [s.nearest(user, interests=interests, recent=4, num=5) for s in (store, other)]
            assert near[0].tobytes() == near[1].tobytes()
    said = {row["event_id"] for row in table.to_pylist() if row["slot"] and row["user_id"] == "u1"}
    assert set(ids(other.history("u1"))) == said  # the other rows stay where they were received
    assert other.apply_many(table) == [DUPLICATE] * 300


@pytest.mark.parametrize("batch_build", [True, False])
def test_forgetting_after_a_restore_is_exact_too(store, other, tmp_path, batch_build):
    # A batch build has no rows of facts, so it cannot bring back those that were pruned.
    table = numbered(range(300)) if batch_build else mixed(range(300))
    other.apply_many(table)
    if batch_build:
        _batch_snapshot(tmp_path / "s.parquet", table)
    else:
        other.snapshot(tmp_path / "s.parquet")
    store.restore(tmp_path / "s.parquet")
    removed = [
        [
            each.forget("u1", item_id=item).num_events
            for item in ("i0", "i1", "i2", "i3", "i4", "i5", "i6")
        ]
        + [each.forget("u2", before_ms=NOW - 2 * DAY_MS).num_events, each.delete("u0").num_events]
        for each in (store, other)
    ]
    assert removed[0] == removed[1]
    assert all(removed[0])
    assert list(store.scan()) == list(other.scan())
    for user in ("u1", "u2"):
        assert store.interactions(user).tobytes() == other.interactions(user).tobytes()


def _batch_snapshot(path: Path, table: pa.Table) -> None:
    """As the batch job writes it: folded states and histories, no store."""
    users = sorted(set(table["user_id"].to_pylist()))
    rows = [(user, folded(table, user), recorded(table, user)) for user in users]
    newest = max(table["ts"].cast(pa.int64()).to_pylist())
    write_snapshot(path, rows, spec=SPEC, marks_from=newest - HORIZON)


def test_a_batch_build_restored_is_the_online_state(store, other, tmp_path):
    table = numbered(range(90))
    _batch_snapshot(tmp_path / "s.parquet", table)
    store.apply_many(table)
    other.restore(tmp_path / "s.parquet")
    assert list(other.scan()) == list(store.scan())
    assert other.apply_many(table) == [DUPLICATE] * 90
    more = numbered(range(90, 120))
    assert other.apply_many(more) == store.apply_many(more) == [ACCEPTED] * 30
    assert list(other.scan()) == list(store.scan())


def test_events_older_than_a_snapshots_marks_are_late(other, clock, tmp_path):
    clock.now = NOW - 3 * DAY_MS  # slower than the machine that built the snapshot
    table = events([{"event_id": f"e{n}", "ts": NOW - n * DAY_MS} for n in range(20)])
    _batch_snapshot(tmp_path / "s.parquet", table)
    other.restore(tmp_path / "s.parquet")
    before = bytes_of(other, "ann")
    assert other.apply_many(table) == [DUPLICATE] * 20
    others = [{"event_id": f"new{n}", "ts": NOW - n * DAY_MS} for n in (8, 19, 7)]
    assert other.apply_many(events(others[:2])) == [LATE] * 2
    assert bytes_of(other, "ann") == before
    assert other.apply_many(events(others[2:])) == [ACCEPTED]


def test_only_an_empty_store_is_restored(store, other, tmp_path):
    store.apply_many(numbered(range(3)))
    other.apply_many(numbered(range(9)))
    store.snapshot(tmp_path / "s.parquet")
    with pytest.raises(ValueError, match=r"other has 3 users.*s\.parquet"):
        other.restore(tmp_path / "s.parquet")
    assert len(other.history("u0")) == 3


def test_an_erased_user_stays_out_when_an_older_snapshot_is_restored(store, other, tmp_path):
    store.apply_many(numbered(range(60)))
    store.snapshot(tmp_path / "s.parquet")
    other.delete("u1")
    other.restore(tmp_path / "s.parquet")
    assert other.get_many(["u1"]) == [EMPTY]
    assert [user for user, _ in other.scan()] == ["u0", "u2"]
    assert set(other.apply_many(numbered([1, 4, 61]))) == {ERASED}


def test_a_forgotten_item_or_time_stays_out_when_an_older_snapshot_is_restored(
    store, other, tmp_path
):
    store.apply_many(mixed(range(300)))
    store.snapshot(tmp_path / "s.parquet")
    store.forget("u1", item_id="i4")
    store.forget("u2", before_ms=NOW - 2 * DAY_MS)
    other.bury(store.tombstones())
    other.restore(tmp_path / "s.parquet")
    assert list(other.scan()) == list(store.scan())
    assert other.apply_many(mixed(range(300))) == store.apply_many(mixed(range(300)))


def test_tombstones_travel_with_a_snapshot(store, other, clock, tmp_path):
    store.apply_many(numbered(range(60)))
    store.delete("u1")
    clock.now += 1000
    back = events([{"event_id": "back", "user_id": "u1", "ts": clock.now}])
    store.apply_many(back)
    store.snapshot(tmp_path / "s.parquet")
    other.restore(tmp_path / "s.parquet")
    assert other.get_many(["u1"]) == [folded(back, "u1")]
    assert other.apply_many(numbered([1])) == [ERASED]


def test_a_user_seen_only_since_their_erasure_is_restored(other, clock, tmp_path):
    other.delete("ann")
    clock.now += 1000
    back = events([{"event_id": "back", "ts": NOW + 1}])
    _batch_snapshot(tmp_path / "s.parquet", back)
    other.restore(tmp_path / "s.parquet")
    assert other.get_many(["ann"]) == [folded(back, "ann")]


def test_a_damaged_snapshot_leaves_the_store_empty(store, other, tmp_path):
    store.apply_many(numbered(range(60)))
    store.snapshot(tmp_path / "s.parquet")
    whole = (tmp_path / "s.parquet").read_bytes()
    (tmp_path / "damaged.parquet").write_bytes(_flipped(whole, len(whole) // 3))
    with pytest.raises(ValueError, match=r"damaged\.parquet"):
        other.restore(tmp_path / "damaged.parquet")
    assert (other.num_users, other.get_many(["u0"])) == (0, [EMPTY])
    other.restore(tmp_path / "s.parquet")
    assert list(other.scan()) == list(store.scan())


def test_no_flipped_byte_of_a_snapshot_goes_unseen(tmp_path):
    store = open_lmdb(tmp_path / "store")
    store.apply_many(mixed(range(60)))
    store.delete("u0")
    store.snapshot(tmp_path / "s")
    store.close()
    whole, expected = (tmp_path / "s").read_bytes(), _content(tmp_path / "s")
    num_refused = 0
    for place in range(0, len(whole), 13):
        (tmp_path / "s").write_bytes(_flipped(whole, place))
        try:
            found = _content(tmp_path / "s")
        except ValueError:
            num_refused += 1
        else:  # bytes that say nothing, such as the name of the writing program
            assert found == expected
    assert num_refused > 50


def _flipped(whole: bytes, place: int) -> bytes:
    return whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :]


def _content(path: Path) -> tuple[object, ...]:
    snapshot = Snapshot(path, SPEC)
    rows = [(user, state, history.tolist(), said) for user, state, history, said in snapshot.rows()]
    return snapshot.info, snapshot.tombstones, rows


@pytest.mark.parametrize("content", [b"", b"not a snapshot"])
def test_another_file_is_no_snapshot(store, tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match="is no snapshot"):
        store.restore(tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        store.restore(tmp_path / "missing")


def test_a_snapshot_of_another_spec_is_refused(store, opened, tmp_path):
    store.apply_many(numbered(range(9)))
    store.snapshot(tmp_path / "s.parquet")
    small = opened(tmp_path / "small", spec=SPEC.model_copy(update={"ring": 4}))
    with pytest.raises(ValueError, match="was built under state spec"):
        small.restore(tmp_path / "s.parquet")
    small.close()


def test_a_snapshot_of_an_older_version_is_refused(store, tmp_path):
    path = tmp_path / "s.parquet"
    _batch_snapshot(path, numbered(range(9)))
    document = json.loads(pq.read_metadata(path).metadata[b"ebb"])
    old = pa.table({"user_id": ["ann"]}).replace_schema_metadata(
        {"ebb": json.dumps({**document, "version": 1})}
    )
    pq.write_table(old, path)
    with pytest.raises(
        ValueError, match=r"version 1; this release reads version 3\. Build it again"
    ):
        store.restore(path)


def test_a_snapshot_of_users_out_of_order_is_refused(tmp_path):
    table = numbered(range(9))
    state, history = folded(table, "u0"), recorded(table, "u0")
    for rows, match in (
        ([("b", state, history), ("a", state, history)], "rising order of id"),
        ([("a", state, history), ("a", state, history)], "rising order of id"),
        ([("a", state, history[::-1])], r"'a' is not in rising order of \(ts, event\)"),
        ([("a", state, history[[0, 0, 1]])], r"'a' is not in rising order of \(ts, event\)"),
    ):
        with pytest.raises(ValueError, match=match):
            write_snapshot(tmp_path / "s", rows, spec=SPEC, marks_from=0)
    assert list(tmp_path.iterdir()) == []
