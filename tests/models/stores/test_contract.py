"""What every store must do. A new store joins by its name in `STORES`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import DAY_MS
from models.events import SCHEMA, encode
from models.memory import EMPTY
from models.memory import encode as to_bytes
from models.stores import MemoryStore, Outcome, Snapshot, write_snapshot
from tests.models.memory.strategies import SPEC
from tests.models.stores.world import (
    HORIZON,
    NOW,
    Clock,
    buckets,
    bytes_of,
    events,
    folded,
    ids,
    late,
    numbered,
    open_lmdb,
    streamed,
)

Open = Callable[..., MemoryStore]
STORES: dict[str, Open] = {"lmdb": open_lmdb}
ACCEPTED, DUPLICATE = Outcome.ACCEPTED, Outcome.DUPLICATE
LATE, ERASED = Outcome.LATE, Outcome.ERASED
few = settings(max_examples=30, deadline=None)
each_store = pytest.mark.parametrize("opened", STORES.values(), ids=STORES)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=STORES.values(), ids=STORES)
def opened(request: pytest.FixtureRequest) -> Open:
    return request.param


@pytest.fixture
def store(opened: Open, tmp_path: Path, clock: Clock) -> Iterator[MemoryStore]:
    made = opened(tmp_path / "store", clock)
    yield made
    made.close()


@pytest.fixture
def other(opened: Open, tmp_path: Path, clock: Clock) -> Iterator[MemoryStore]:
    made = opened(tmp_path / "other", clock)
    yield made
    made.close()


# -- reading and applying --


def test_nobody_is_known_to_a_new_store(store):
    assert store.get_many(["ann", "", "x" * 1000]) == [EMPTY] * 3
    assert (store.num_users, list(store.scan()), streamed(store)) == (0, [], [])
    assert store.history("ann") == SCHEMA.empty_table()
    assert store.apply_many(SCHEMA.empty_table()) == []


def test_states_are_the_fold_of_each_users_events(store):
    table = numbered(range(200))
    assert store.apply_many(table) == [ACCEPTED] * 200
    users = ["u2", "nobody", "u0", "u1", "u2"]
    assert store.get_many(users) == [folded(table, user) for user in users]
    assert list(store.scan()) == [(user, folded(table, user)) for user in ("u0", "u1", "u2")]
    assert store.num_users == 3


def test_scan_goes_through_many_users_in_order(store):
    store.apply_many(numbered(range(1100), num_users=1100))
    users = [user for user, _ in store.scan()]
    assert users == sorted(f"u{n}" for n in range(1100))


def test_an_event_applied_twice_changes_nothing(store):
    table = numbered(range(60))
    store.apply_many(table)
    before, stream = bytes_of(store, "u0", "u1", "u2"), streamed(store)
    assert store.apply_many(table) == [DUPLICATE] * 60
    assert store.apply_many(table.slice(10, 5)) == [DUPLICATE] * 5
    assert bytes_of(store, "u0", "u1", "u2") == before
    assert streamed(store) == stream


def test_the_first_of_two_rows_with_one_id_counts(store):
    table = events(
        [
            {"event_id": "a", "item_id": "first"},
            {"event_id": "a", "item_id": "second"},
            {"event_id": "a", "user_id": "bob"},  # an id is unique per user
        ]
    )
    assert store.apply_many(table) == [ACCEPTED, DUPLICATE, ACCEPTED]
    assert store.history("ann")["item_id"].to_pylist() == ["first"]
    assert store.get_many(["ann"]) == [folded(table.slice(0, 1), "ann")]


@few
@given(data=st.data())
@each_store
def test_any_order_and_split_gives_the_bytes_of_the_fold(opened, data):
    sent = data.draw(st.permutations(list(range(30)) + list(range(0, 30, 4))))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(sent) - 1), max_size=5)))
    whole = numbered(range(30))
    with TemporaryDirectory() as folder:
        store = opened(Path(folder))
        outcomes = []
        for low, high in zip([0, *cuts], [*cuts, len(sent)], strict=True):
            outcomes += store.apply_many(numbered(sent[low:high]))
        found = bytes_of(store, "u0", "u1", "u2")
        store.close()
    assert outcomes.count(ACCEPTED) == 30
    assert outcomes.count(DUPLICATE) == 8
    assert found == [to_bytes(folded(whole, user), SPEC) for user in ("u0", "u1", "u2")]


def test_threads_may_share_a_store(store):
    tables = [numbered(range(n, n + 20)) for n in range(0, 200, 10)]  # each event sent twice
    with ThreadPoolExecutor(4) as pool:
        outcomes = [one for many in pool.map(store.apply_many, tables) for one in many]
    assert outcomes.count(ACCEPTED) == 210
    whole = numbered(range(210))
    assert store.get_many(["u0", "u1"]) == [folded(whole, "u0"), folded(whole, "u1")]


def test_rows_that_were_not_validated_are_refused(store):
    with pytest.raises(ValueError, match=r"models\.events\.validate"):
        store.apply_many(pa.table({"event_id": ["a"], "user_id": ["ann"]}))


# -- late events --


def test_a_late_event_is_kept_once_and_not_applied(store):
    old = events([{"event_id": "old", "ts": NOW - HORIZON - 1}])
    again = events([{"event_id": "old", "ts": NOW - HORIZON - 2}])
    edge = events([{"event_id": "edge", "ts": NOW - HORIZON}])
    assert store.apply_many(pa.concat_tables([old, old, edge])) == [LATE, LATE, ACCEPTED]
    assert store.apply_many(again) == [LATE]
    assert [batch.to_pylist() for batch in store.late_events()] == [old.to_pylist()]
    assert streamed(store) == ["edge"]
    assert store.get_many(["ann"]) == [folded(edge, "ann")]
    assert ids(store.history("ann")) == ["old", "edge"]


def test_a_user_with_late_events_only_has_no_state(store, tmp_path):
    store.apply_many(events([{"event_id": "old", "ts": NOW - HORIZON - 1}]))
    assert (store.num_users, list(store.scan())) == (0, [])
    assert store.get_many(["ann"]) == [EMPTY]
    assert store.snapshot(tmp_path / "s.parquet").num_users == 0
    assert store.delete("ann").num_events == 1


def test_all_late_events_come_out(store):
    old = [{"event_id": f"e{n}", "ts": NOW - HORIZON - 1 - n} for n in range(1100)]
    store.apply_many(events(old))
    assert len(late(store)) == len(set(late(store))) == 1100


def test_an_event_is_not_applied_again_when_its_mark_is_gone(store, clock):
    first = numbered(range(40))
    store.apply_many(first)
    clock.now += 2 * HORIZON
    for n in range(40, 80):  # enough calls to remove all marks of before
        store.apply_many(events([{"event_id": f"e{n}", "ts": clock.now}]))
    before = bytes_of(store, "u0", "u1", "u2")
    assert set(store.apply_many(first)) == {DUPLICATE}
    clock.now -= 2 * HORIZON  # a clock that falls back makes nothing new
    assert set(store.apply_many(first)) == {DUPLICATE}
    assert store.apply_many(events([{"event_id": "other", "ts": NOW}])) == [LATE]
    assert bytes_of(store, "u0", "u1", "u2") == before


def test_a_known_event_with_a_new_time_is_still_known(store, clock):
    store.apply_many(events([{"event_id": "a"}]))
    clock.now += 2 * HORIZON
    store.apply_many(events([{"event_id": f"{n}", "user_id": "bob"} for n in range(9)]))
    again = events([{"event_id": "a", "ts": clock.now}])
    assert store.apply_many(again) == [DUPLICATE]


def test_a_late_event_that_was_applied_under_another_time_is_once_in_the_history(store, clock):
    store.apply_many(events([{"event_id": f"e{n}", "ts": NOW + n} for n in range(20)]))
    clock.now += 2 * HORIZON
    store.apply_many(events([{"event_id": "new", "user_id": "bob", "ts": clock.now}]))
    assert store.apply_many(events([{"event_id": "e0", "ts": NOW - 1}])) == [LATE]
    assert ids(store.history("ann")) == [f"e{n}" for n in range(20)]


# -- history and stream --


def test_history_gives_back_what_was_sent(store):
    table = events(
        [
            {
                "event_id": "é\n1",
                "user_id": "ünï",
                "ts": NOW - 5,
                "arrived_at": NOW,
                "session_id": "s",
                "request_id": "r",
                "position": 3,
                "query": 'tea "cup" ☕',
                "value": 0.1,
                "surface": "home",
                "propensity": 1e-7,
            },
            {"event_id": "2", "user_id": "ünï", "ts": NOW - 9, "action": "search", "item_id": None},
        ]
    )
    store.apply_many(table)
    found = store.history("ünï")
    assert found.schema == SCHEMA
    assert found.to_pylist() == table.to_pylist()[::-1]
    assert encode(found, buckets).tobytes() == encode(table.take([1, 0]), buckets).tobytes()


def test_the_stream_is_in_commit_order_and_can_be_resumed(store):
    numbers = list(range(900))[::-1]
    for low in range(0, 900, 300):
        store.apply_many(numbered(numbers[low : low + 300]))
    assert streamed(store) == [f"e{n}" for n in numbers]
    seen = []
    for after, batch in store.stream():
        seen += ids(batch)
        assert seen + streamed(store, after) == [f"e{n}" for n in numbers]
    assert streamed(store, after) == []
    store.apply_many(numbered([1000]))
    assert streamed(store, after) == ["e1000"]


# -- erasure --


def test_an_erased_user_is_gone_and_a_replay_brings_nothing_back(store, clock):
    table = numbered(range(30))
    old = events([{"event_id": "old", "user_id": "u1", "ts": NOW - HORIZON - 1}])
    store.apply_many(table)
    store.apply_many(old)
    receipt = store.delete("u1")
    assert (receipt.num_events, receipt.num_marks, receipt.erased_at_ms) == (11, 10, NOW)
    assert receipt.num_bytes > 1000
    assert store.get_many(["u0", "u1"]) == [folded(table, "u0"), EMPTY]
    assert (store.num_users, len(store.history("u1")), late(store)) == (2, 0, [])
    assert streamed(store) == [f"e{n}" for n in range(30) if n % 3 != 1]
    expected = [ERASED if n % 3 == 1 else DUPLICATE for n in range(30)]
    assert store.apply_many(table) == expected
    assert store.apply_many(old) == [ERASED]
    assert (store.num_users, len(store.history("u1")), late(store)) == (2, 0, [])


def test_an_erased_user_may_come_back(store, clock):
    store.apply_many(events([{"event_id": "a"}]))
    store.delete("ann")
    clock.now += 1000
    back = events([{"event_id": "a", "ts": NOW + 1}, {"event_id": "b", "ts": NOW}])
    assert store.apply_many(back) == [ACCEPTED, ERASED]
    assert store.get_many(["ann"]) == [folded(back.slice(0, 1), "ann")]
    assert store.delete("ann").num_events == 1


def test_erasure_covers_an_event_ahead_of_the_clock(store):
    ahead = events([{"event_id": "a", "ts": NOW + 60_000}])
    store.apply_many(ahead)
    assert store.delete("ann").erased_at_ms == NOW + 60_000
    assert store.apply_many(ahead) == [ERASED]
    assert store.delete("ann").erased_at_ms == NOW + 60_000  # and an erasure is not taken back


def test_erasing_an_unknown_user_keeps_later_replays_out(store):
    receipt = store.delete("ann")
    assert (receipt.num_events, receipt.num_marks, receipt.num_bytes) == (0, 0, 0)
    assert store.apply_many(events([{"event_id": "a"}])) == [ERASED]


def test_sequence_numbers_are_not_used_again_after_an_erasure(store):
    store.apply_many(numbered(range(6)))
    *_, (last, _) = store.stream()
    store.delete("u2")  # the last event was theirs
    store.apply_many(numbered([9]))
    assert streamed(store, last) == ["e9"]


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
    store.apply_many(numbered(range(50)))
    info = store.snapshot(tmp_path / "s.parquet")
    store.apply_many(numbered(range(50, 90)))
    other.restore(tmp_path / "s.parquet")
    for _, batch in store.stream(after=info.offset):
        other.apply_many(pa.Table.from_batches([batch]))
    assert bytes_of(other, "u0", "u1", "u2") == bytes_of(store, "u0", "u1", "u2")
    assert streamed(other, info.offset) == streamed(store, info.offset)


def _batch_snapshot(path: Path, table: pa.Table) -> None:
    """As the batch job writes it: folded states, no store."""
    records, users = encode(table, buckets), np.asarray(table["user_id"].to_pylist())
    rows = [
        (user, folded(table, user), records["event"][users == user], records["ts"][users == user])
        for user in sorted(set(users.tolist()))
    ]
    newest = int(records["ts"].max())
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
    # Seven days have marks; the ring of 8 knows as many; the rest may or may not be new.
    assert other.apply_many(table) == [DUPLICATE] * 8 + [LATE] * 12
    assert bytes_of(other, "ann") == before


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
    _batch_snapshot(tmp_path / "s", numbered(range(60)))
    whole, expected = (tmp_path / "s").read_bytes(), _content(tmp_path / "s")
    num_refused = 0
    for place in range(0, len(whole), 17):
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
    rows = [(r.user_id, r.state, r.marks.tolist(), r.marks_ts.tolist()) for r in snapshot.rows()]
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


def test_a_snapshot_of_users_out_of_order_is_refused(tmp_path):
    none = np.array([], np.uint64), np.array([], np.int64)
    state = folded(numbered([0]), "u0")
    with pytest.raises(ValueError, match="rising order"):
        write_snapshot(
            tmp_path / "s", [("b", state, *none), ("a", state, *none)], spec=SPEC, marks_from=0
        )
    rows = [("a", state, np.array([1], np.uint64), none[1])]
    with pytest.raises(ValueError, match="1 marks and 0 times"):
        write_snapshot(tmp_path / "s", rows, spec=SPEC, marks_from=0)
    assert list(tmp_path.iterdir()) == []


# -- reopening --


def test_a_store_can_be_opened_again(opened, tmp_path):
    first = opened(tmp_path / "s")
    first.apply_many(numbered(range(30)))
    first.delete("u1")
    first.close()
    second = opened(tmp_path / "s")
    table = numbered(range(30))
    assert second.get_many(["u0", "u1"]) == [folded(table, "u0"), EMPTY]
    assert second.apply_many(table) == [ERASED if n % 3 == 1 else DUPLICATE for n in range(30)]
    assert second.apply_many(numbered([33])) == [ACCEPTED]
    second.close()
