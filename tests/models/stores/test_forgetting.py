"""Forgetting: what is gone stays gone, and what is left is as if the rest had never been."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import DAY_MS
from models.events import key64
from models.memory import EMPTY
from models.memory import encode as to_bytes
from models.stores import MemoryStore, Outcome
from tests.models.memory.strategies import SPEC
from tests.models.stores.world import (
    HORIZON,
    NOW,
    STORES,
    events,
    folded,
    ids,
    late,
    mixed,
    numbered,
    recorded,
    streamed,
)

ACCEPTED, DUPLICATE, ERASED = Outcome.ACCEPTED, Outcome.DUPLICATE, Outcome.ERASED
each_store = pytest.mark.parametrize("opened", STORES.values(), ids=STORES)


def without_item(table: pa.Table, item_id: str) -> pa.Table:
    """The events that are not of an item."""
    return table.filter(pc.fill_null(pc.not_equal(table["item_id"], item_id), True))


def since(table: pa.Table, ts: int) -> pa.Table:
    """The events at or after a time."""
    return table.filter(pc.greater_equal(table["ts"].cast(pa.int64()), ts))


def of_user(table: pa.Table, user_id: str) -> pa.Table:
    return table.filter(pc.equal(table["user_id"], user_id))


def check(store: MemoryStore, table: pa.Table, user_id: str) -> None:
    """All that a store says of a user is what it would say if it had only seen these events."""
    state, history = folded(table, user_id), recorded(table, user_id)
    assert store.get_many([user_id]) == [state]
    assert store.interactions(user_id).tobytes() == history.tobytes()
    assert sorted(ids(store.history(user_id))) == sorted(ids(of_user(table, user_id)))
    assert dict(store.scan()).get(user_id, EMPTY) == state
    for interest in range(SPEC.num_interests):
        near = store.nearest(user_id, interests=[interest], recent=0, num=1000)
        assert set(near["event"].tolist()) <= set(history["event"].tolist())


# -- everything --


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


# -- an item, a time --


def test_a_forgotten_item_leaves_the_fold_of_the_rest(store, clock):
    table = mixed(range(300))
    old = events([{"event_id": "old", "user_id": "u1", "item_id": "i4", "ts": NOW - HORIZON - 1}])
    store.apply_many(pa.concat_tables([table, old]))
    num = len(of_user(table, "u1")) - len(of_user(without_item(table, "i4"), "u1"))
    receipt = store.forget("u1", item_id="i4")
    assert (receipt.num_events, receipt.num_marks) == (num + 1, num)
    assert (receipt.erased_at_ms, num > 5, late(store)) == (NOW, True, [])
    check(store, without_item(table, "i4"), "u1")
    check(store, table, "u0")  # others keep theirs
    assert "i4" not in store.history("u1")["item_id"].to_pylist()
    assert set(streamed(store)) == set(ids(table)) - (
        set(ids(of_user(table, "u1"))) - set(ids(without_item(table, "i4")))
    )


def test_what_was_forgotten_with_an_item_stays_out_and_what_is_new_comes_in(store, clock):
    table = mixed(range(300))
    store.apply_many(table)
    store.forget("u1", item_id="i4")
    outcomes = store.apply_many(table)
    gone = set(ids(of_user(table, "u1"))) - set(ids(without_item(table, "i4")))
    expected = [ERASED if event in gone else DUPLICATE for event in ids(table)]
    assert outcomes == expected
    check(store, without_item(table, "i4"), "u1")
    clock.now += 1000
    new = events([{"event_id": "new", "user_id": "u1", "item_id": "i4", "ts": NOW + 1}])
    assert store.apply_many(new) == [ACCEPTED]
    check(store, pa.concat_tables([without_item(table, "i4"), new]), "u1")


def test_older_events_return_to_the_ring_when_newer_ones_are_forgotten(store):
    rows = [{"event_id": f"a{n}", "item_id": "old", "ts": NOW - 1000 + n} for n in range(8)]
    rows += [{"event_id": f"b{n}", "item_id": "new", "ts": NOW - 500 + n} for n in range(8)]
    store.apply_many(events(rows))
    assert len(store.get_many(["ann"])[0].ring) == SPEC.ring == 8
    store.forget("ann", item_id="new")
    (state,) = store.get_many(["ann"])
    assert state.ring["item"].tolist() == [key64("old")] * 8


def test_forgetting_before_a_time_takes_events_and_facts(store):
    table, ts = mixed(range(300)), NOW - DAY_MS
    assert len(folded(table, "u1").facts) > len(folded(since(table, ts), "u1").facts) > 0
    store.apply_many(table)
    receipt = store.forget("u1", before_ms=ts)
    assert receipt.num_events == len(of_user(table, "u1")) - len(of_user(since(table, ts), "u1"))
    assert receipt.erased_at_ms == ts - 1
    check(store, since(table, ts), "u1")
    check(store, table, "u2")
    outcomes = store.apply_many(of_user(table, "u1"))
    early = pc.less(of_user(table, "u1")["ts"].cast(pa.int64()), ts).to_pylist()
    assert outcomes == [ERASED if before else DUPLICATE for before in early]


def test_forgetting_all_there_is_leaves_no_user(store, clock):
    store.apply_many(events([{"event_id": f"{n}", "ts": NOW - n} for n in range(1, 5)]))
    clock.now += 1
    store.forget("ann", before_ms=clock.now)
    store.apply_many(events([{"event_id": "b", "user_id": "bob"}]))
    store.forget("bob", item_id="i1")
    assert (store.num_users, list(store.scan()), streamed(store)) == (0, [], [])


def test_what_is_to_be_forgotten_must_be_said(store):
    for given_, match in (
        ({}, "forget what"),
        ({"item_id": "i1", "before_ms": NOW}, "call twice"),
        ({"before_ms": NOW + 1}, f"before_ms {NOW + 1} is not between 1 and now"),
        ({"before_ms": 0}, "before_ms 0 is not between"),
    ):
        with pytest.raises(ValueError, match=match):
            store.forget("ann", **given_)
    assert store.tombstones() == {}


def test_an_erasure_takes_the_traces_of_forgotten_items_too(store):
    store.apply_many(mixed(range(60)))
    store.forget("u1", item_id="i1")
    store.forget("u1", item_id="unknown")
    store.forget("u2", before_ms=NOW - DAY_MS)
    assert sorted(map(len, store.tombstones())) == [16, 24, 24]
    store.delete("u1")
    assert sorted(map(len, store.tombstones())) == [16, 16]
    assert set(store.apply_many(of_user(mixed(range(60)), "u1"))) == {ERASED}


_forgettings = st.lists(
    st.one_of(
        st.tuples(st.just("item"), st.integers(0, 10)),
        st.tuples(st.just("before"), st.integers(0, 6 * DAY_MS)),
        st.just(("all", 0)),
        st.tuples(st.just("apply"), st.integers(0, 89)),
    ),
    max_size=8,
)


@settings(max_examples=40, deadline=None)
@given(steps=_forgettings)
@each_store
def test_any_forgettings_leave_the_fold_of_the_rest(opened, steps):
    """Beside a model that keeps a table of events and cuts it."""
    whole = mixed(range(90), num_users=1)
    table, tombs = whole.slice(0, 60), []
    with TemporaryDirectory() as folder:
        store = opened(Path(folder))
        store.apply_many(table)
        for what, number in steps:
            if what == "item":
                store.forget("u0", item_id=f"i{number}")
                cut = lambda t, n=number: without_item(t, f"i{n}")  # noqa: E731
            elif what == "before":
                store.forget("u0", before_ms=NOW - number)
                cut = lambda t, n=number: since(t, NOW - n)  # noqa: E731
            elif what == "all":
                store.delete("u0")
                cut = lambda t: t.slice(0, 0)  # noqa: E731
            else:
                store.apply_many(whole)
                table = whole
                cut = lambda t: t  # noqa: E731
            tombs.append(cut)
            for one in tombs:
                table = one(table)
            check(store, table, "u0")
        expected = set(ids(table))
        assert set(streamed(store)) == expected
        store.close()


# -- other stores --


def test_a_follower_of_the_stream_learns_of_erasures(store, other):
    table, more = mixed(range(200)), mixed(range(200, 300))
    store.apply_many(table)
    for _, batch in store.stream():
        other.apply_many(pa.Table.from_batches([batch]))
    *_, (after, _) = store.stream()
    removed = [
        store.forget("u1", item_id="i4").num_events,
        store.forget("u0", before_ms=NOW - 2 * DAY_MS).num_events,
        store.delete("u2").num_events,
    ]
    store.apply_many(more)
    store.delete("nobody")
    assert other.bury(store.tombstones()) == sum(removed)
    for _, batch in store.stream(after):
        other.apply_many(pa.Table.from_batches([batch]))
    assert list(other.scan()) == list(store.scan())
    for user in ("u0", "u1", "u2"):
        assert other.interactions(user).tobytes() == store.interactions(user).tobytes()
    assert streamed(other) == streamed(store)
    assert other.tombstones() == store.tombstones()
    assert other.bury(store.tombstones()) == 0  # again changes nothing
    assert list(other.scan()) == list(store.scan())
    assert set(other.apply_many(table)) == {ERASED, DUPLICATE}


def test_an_older_tombstone_does_not_undo_a_later_one(store, other, clock):
    store.delete("ann")
    clock.now += 1000
    other.delete("ann")
    other.bury(store.tombstones())
    assert list(other.tombstones().values()) == [NOW + 1000]
    assert other.apply_many(events([{"event_id": "a", "ts": NOW + 1}])) == [ERASED]


def test_tombstones_outlast_a_restart(opened, tmp_path):
    first, table = opened(tmp_path / "s"), mixed(range(60))
    first.apply_many(table)
    first.forget("u1", item_id="i4")
    kept = first.tombstones()
    first.close()
    second = opened(tmp_path / "s")
    assert second.tombstones() == kept
    assert second.apply_many(table).count(ERASED) == len(table) - len(
        pa.concat_tables(
            [of_user(table, "u0"), of_user(table, "u2"), without_item(of_user(table, "u1"), "i4")]
        )
    )
    check(second, without_item(table, "i4"), "u1")
    second.close()


def test_states_have_the_bytes_of_the_fold(store):
    table = mixed(range(300))
    store.apply_many(table)
    store.forget("u1", item_id="i4")
    (state,) = store.get_many(["u1"])
    assert to_bytes(state, SPEC) == to_bytes(folded(without_item(table, "i4"), "u1"), SPEC)
    assert np.array_equal(
        state.ring["event"], folded(without_item(table, "i4"), "u1").ring["event"]
    )
