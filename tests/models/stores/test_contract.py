"""What every store must do with events. A new store joins by its name in `world.STORES`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.events import ACTIONS, SCHEMA, encode
from models.memory import EMPTY
from models.memory import encode as to_bytes
from models.stores import Outcome
from tests.models.memory.strategies import SPEC
from tests.models.stores.world import (
    HORIZON,
    NOW,
    STORES,
    buckets,
    bytes_of,
    events,
    folded,
    ids,
    late,
    mixed,
    numbered,
    recorded,
    streamed,
)

ACCEPTED, DUPLICATE = Outcome.ACCEPTED, Outcome.DUPLICATE
LATE, ERASED = Outcome.LATE, Outcome.ERASED
few = settings(max_examples=30, deadline=None)
each_store = pytest.mark.parametrize("opened", STORES.values(), ids=STORES)


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
    sent = data.draw(st.permutations(list(range(90)) + list(range(0, 90, 4))))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(sent) - 1), max_size=12)))
    whole = mixed(range(90), num_users=2)  # enough that states are folded now and then
    with TemporaryDirectory() as folder:
        store = opened(Path(folder))
        outcomes = []
        for low, high in zip([0, *cuts], [*cuts, len(sent)], strict=True):
            outcomes += store.apply_many(mixed(sent[low:high], num_users=2))
        found = bytes_of(store, "u0", "u1")
        histories = [store.interactions(user).tobytes() for user in ("u0", "u1")]
        store.close()
    assert outcomes.count(ACCEPTED) == 90
    assert outcomes.count(DUPLICATE) == 23
    assert found == [to_bytes(folded(whole, user), SPEC) for user in ("u0", "u1")]
    assert histories == [recorded(whole, user).tobytes() for user in ("u0", "u1")]


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


def test_an_event_that_cannot_be_folded_is_refused_before_it_is_stored(opened, tmp_path):
    store = opened(tmp_path, interests=lambda items: buckets(items) + SPEC.num_interests)
    with pytest.raises(ValueError, match="interest bucket"):
        store.apply_many(numbered([0]))
    assert (store.num_users, streamed(store)) == (0, [])
    store.close()


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


def test_a_known_event_is_known_for_ever(store, clock):
    first = numbered(range(40))
    store.apply_many(first)
    before = bytes_of(store, "u0", "u1", "u2")
    clock.now += 2 * HORIZON
    for n in range(40, 80):
        store.apply_many(events([{"event_id": f"e{n}", "user_id": "bob", "ts": clock.now}]))
    assert set(store.apply_many(first)) == {DUPLICATE}
    clock.now -= 2 * HORIZON
    assert set(store.apply_many(first)) == {DUPLICATE}
    assert bytes_of(store, "u0", "u1", "u2") == before


def test_a_known_event_with_a_new_time_is_still_known(store, clock):
    store.apply_many(numbered(range(60)))
    before, stream = bytes_of(store, "u0"), streamed(store)
    clock.now += 2 * HORIZON
    for ts in (NOW - 2 * HORIZON, NOW, clock.now):
        again = [{"event_id": f"e{n}", "user_id": "u0", "ts": ts} for n in range(0, 60, 3)]
        assert set(store.apply_many(events(again))) == {DUPLICATE}
    assert (bytes_of(store, "u0"), streamed(store)) == (before, stream)


# -- history --


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


def test_facts_are_stored_like_other_events(store):
    table = mixed(range(100))
    assert store.apply_many(table) == [ACCEPTED] * 100
    assert store.apply_many(table) == [DUPLICATE] * 100
    (state,) = store.get_many(["u1"])
    assert (state.facts, len(state.facts) > 5) == (folded(table, "u1").facts, True)
    assert store.interactions("u1").tobytes() == recorded(table, "u1").tobytes()
    by_time = {row["event_id"]: row for row in table.to_pylist() if row["user_id"] == "u1"}
    assert {row["event_id"]: row for row in store.history("u1").to_pylist()} == by_time


# -- lifelong reads --


@few
@given(
    events_=st.integers(0, 200),
    interests=st.lists(st.integers(0, SPEC.num_interests - 1), max_size=4),
    recent=st.integers(0, SPEC.ring),
    num=st.integers(0, 30),
)
@each_store
def test_nearest_gives_the_last_of_all_and_of_each_interest(
    opened, events_, interests, recent, num
):
    with TemporaryDirectory() as folder:
        store = opened(Path(folder))
        store.apply_many(mixed(range(events_)))
        near = store.nearest("u1", interests=interests, recent=recent, num=num)
        known = store.interactions("u1")
        store.close()
    of_ring = known[~np.isin(known["action"], [ACTIONS[n].code for n in ("state", "impression")])]
    wanted = set(of_ring["event"][len(of_ring) - min(recent, len(of_ring)) :].tolist())
    for interest in interests:
        same = of_ring["event"][of_ring["interest"] == interest]
        wanted |= set(same[len(same) - min(num, len(same)) :].tolist())
    assert near.tobytes() == known[np.isin(known["event"], list(wanted))].tobytes()


def test_nearest_of_nobody_is_nothing_and_of_too_many_recent_is_refused(store):
    assert len(store.nearest("nobody", interests=[0, 1], recent=3, num=3)) == 0
    with pytest.raises(ValueError, match=f"the ring keeps {SPEC.ring} interactions"):
        store.nearest("ann", interests=[], recent=SPEC.ring + 1, num=1)


# -- the stream --


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
