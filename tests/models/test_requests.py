"""Histories and requests: point in time, duplicates, splits, and the same features as online."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.config import DAY_MS
from models.events import SCHEMA, encode, key64, validate
from models.memory import (
    EMPTY,
    Histories,
    MemorySpec,
    StateSpec,
    decode,
    fold,
    update,
    user_features,
    view,
)
from models.parts import Part, partition
from models.records import pack
from models.requests import RequestConfig

MEMORY = MemorySpec(state=StateSpec(ring=4, num_interests=4))
HOUR_MS = 3_600_000
DAY_0 = 15_000 * DAY_MS


def day(number):
    return datetime.fromtimestamp((DAY_0 + number * DAY_MS) / 1000, UTC)


def config(**given):
    base = {"labels": ("click", "purchase"), "validate_from": day(10), "test_from": day(20)}
    return RequestConfig(**{**base, **given})


def events(*rows):
    """Rows of changes to a plain event; `at` and `arrived` in hours after day 0."""
    full = []
    for place, row in enumerate(rows):
        full.append(
            {
                "event_id": f"e{place}",
                "user_id": "u",
                "item_id": "a",
                "action": "click",
                "ts": DAY_0 + round(row["at"] * HOUR_MS),
                "arrived_at": DAY_0 + round(row.get("arrived", row["at"]) * HOUR_MS),
                **{n: v for n, v in row.items() if n not in ("at", "arrived", "city")},
            }
        )
    nullable = pa.schema([field.with_nullable(True) for field in SCHEMA])
    checked = validate(pa.Table.from_pylist(full, nullable), now_ms=DAY_0 + 400 * DAY_MS)
    assert not len(checked.rejected), checked.rejected
    cities = pa.array([row.get("city") for row in rows], pa.string())
    return checked.good.append_column("context_city", cities)


def rows_of(*rows, slates=False):
    return pack(events(*rows), ("city",), slates=slates)


def parted(*rows, **given):
    slates = given.get("per") == "request"
    return partition(rows_of(*rows, slates=slates), requests=config(**given), memory=MEMORY)


def keys(*items):
    return [key64(item) for item in items]


def test_a_session_is_a_request_with_all_that_came_of_it():
    part = parted(
        {"at": 0, "action": "search", "item_id": None, "city": "Bonn"},
        {"at": 0.1, "item_id": "b", "city": "Kiel"},
        {"at": 0.2, "item_id": "a"},
        {"at": 0.3, "item_id": "b", "action": "purchase"},
        {"at": 5, "item_id": "c"},
        context=("city",),
    )
    first, second = part.requests.drop(["user_features"]).to_pylist()
    assert first["as_of"] == DAY_0
    assert first["items"] == keys("b", "a")
    assert first["labels"] == [0b11, 0b01]
    assert first["context_city"] == "Bonn"
    assert second["items"] == keys("c")
    assert second["as_of"] == DAY_0 + 5 * HOUR_MS
    assert first["request_id"] != second["request_id"]


def test_a_session_without_a_label_makes_no_request():
    assert not len(parted({"at": 0, "action": "view"}, {"at": 9, "action": "cancel"}).requests)


def test_each_labelled_event_may_be_a_request():
    part = parted(
        {"at": 0, "item_id": "a"},
        {"at": 0.1, "item_id": "a", "action": "view"},
        {"at": 0.1, "item_id": "b", "action": "purchase"},
        per="event",
    )
    assert part.requests["items"].to_pylist() == [keys("a"), keys("b")]
    assert part.requests["labels"].to_pylist() == [[1], [2]]


def test_a_named_session_is_one_request_even_when_two_interleave():
    at = [(0, "s"), (0, "t"), (0, "s"), (0, "t"), (0.1, "s"), (30, "s")]
    rows = [
        {"at": hour, "session_id": name, "item_id": f"{name}{place}"}
        for place, (hour, name) in enumerate(at)
    ]
    part = parted(*rows)
    found = dict(
        zip(part.requests["session"].to_pylist(), part.requests["items"].to_pylist(), strict=True)
    )
    assert {name: set(items) for name, items in found.items()} == {
        key64("s"): set(keys("s0", "s2", "s4", "s5")),
        key64("t"): set(keys("t1", "t3")),
    }


def test_sessions_of_two_users_are_two_even_with_one_name():
    part = parted({"at": 0, "session_id": "s"}, {"at": 0, "session_id": "s", "user_id": "v"})
    assert part.requests["user_id"].to_pylist() == ["u", "v"]


def test_a_request_id_makes_a_request_with_the_slate_that_was_shown():
    shown = {"action": "impression", "request_id": "r", "session_id": "s"}
    part = parted(
        {"at": 0, **shown, "item_id": "b", "position": 1, "propensity": 0.25},
        {"at": 0, **shown, "item_id": "a", "position": 0},
        {"at": 0, **shown, "item_id": "c"},
        {"at": 0.1, "request_id": "r", "item_id": "b"},
        {"at": 0.2, "request_id": "r", "item_id": "z", "action": "purchase"},
        {"at": 0.3, "item_id": "elsewhere"},
        {"at": 1, **shown, "request_id": "q", "item_id": "d", "position": 0},
        {"at": 2, "request_id": "r", "user_id": "v", "item_id": "a"},
        per="request",
    )
    rows = {(row["user_id"], row["as_of"]): row for row in part.requests.to_pylist()}
    first, second = rows["u", DAY_0], rows["u", DAY_0 + HOUR_MS]
    assert first["shown"] == keys("a", "b", "c")
    assert first["positions"] == [0, 1, -1]
    assert first["propensities"][1] == 0.25
    assert np.isnan(first["propensities"][0])
    assert first["items"] == keys("b", "z")
    assert first["labels"] == [1, 2]
    assert (second["shown"], second["items"]) == (keys("d"), [])
    assert rows["v", DAY_0 + 2 * HOUR_MS]["shown"] == []
    assert len(rows) == 3


def test_an_outcome_counts_within_its_window():
    rows = [{"at": 0, "action": "impression", "request_id": "r", "item_id": item} for item in "abc"]
    rows += [
        {"at": 1, "request_id": "r", "item_id": "a"},
        {"at": 30, "request_id": "r", "item_id": "b", "action": "purchase"},
        {"at": 2, "arrived": 24, "request_id": "r", "item_id": "c"},
    ]
    for window, items in [(None, "acb"), ("24h", "a"), ("25h", "ac"), ("31h", "acb")]:
        part = parted(*rows, per="request", outcome_window=window)
        assert part.requests["items"].to_pylist() == [keys(*items)], window


def test_one_enormous_user_breaks_nothing():
    num = 300_000
    rng = np.random.default_rng(0)
    often = rng.random(num) < 0.005
    table = pa.table(
        {
            "event_id": [f"e{n}" for n in range(num)],
            "user_id": np.where(rng.random(num) < 0.999, "crawler", "somebody"),
            "item_id": [f"i{n}" for n in rng.integers(0, 5000, num)],
            "action": np.where(often, "purchase", "view"),
            "ts": pa.array(DAY_0 + np.sort(rng.integers(0, 25 * DAY_MS, num))).cast(
                pa.timestamp("ms", "UTC")
            ),
        }
    )
    good = validate(table, now_ms=DAY_0 + 400 * DAY_MS).good
    rows = pack(good)
    tracemalloc.start()
    part = partition(rows, requests=config(per="event", labels=("purchase",)), memory=MEMORY)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(part.requests) == often.sum()
    assert peak < 20 * rows.nbytes
    for request in part.requests.slice(0, len(part.requests)).to_pylist()[::400]:
        user = part.histories.users.to_pylist().index(request["user_id"])
        seen = fold(part.histories.seen(user, request["as_of"]), MEMORY.state)
        now = user_features(view(seen, now_ms=request["as_of"], spec=MEMORY))
        assert np.asarray(request["user_features"], np.float32).tobytes() == now.tobytes()


def test_the_split_is_by_time_and_warmup_makes_none():
    hours = [24 * n for n in (0, 1, 9, 10, 19, 20, 30)]
    part = parted(*({"at": hour} for hour in hours), warmup=day(1))
    assert part.requests["split"].to_pylist() == [
        "train",
        "train",
        "validate",
        "validate",
        "test",
        "test",
    ]
    assert len(part.histories.interactions) == len(hours)


def test_an_outcome_that_arrives_after_its_split_was_not_known_to_it():
    begin = 24 * 10 - 0.2
    part = parted(
        {"at": begin, "item_id": "a"},
        {"at": begin + 0.1, "item_id": "b"},
        {"at": begin + 0.3, "item_id": "c"},
        {"at": begin + 0.1, "item_id": "d", "arrived": begin + 48},
    )
    assert part.requests["split"].to_pylist() == ["train"]
    assert part.requests["items"].to_pylist() == [keys("a", "b")]


def test_duplicates_are_removed_by_user_and_event_and_the_first_to_arrive_stays():
    part = parted(
        {"at": 2, "arrived": 9, "event_id": "x", "item_id": "late"},
        {"at": 1, "arrived": 3, "event_id": "x", "item_id": "early"},
        {"at": 1, "arrived": 3, "event_id": "x", "item_id": "early"},
        {"at": 1, "event_id": "x", "user_id": "v"},
    )
    assert part.num_duplicates == 2
    assert part.users["user_id"].to_pylist() == ["u", "v"]
    assert part.histories.interactions["item"].tolist() == keys("early", "a")


def test_events_that_arrived_after_a_younger_one_are_counted():
    part = parted({"at": 1, "arrived": 9}, {"at": 2}, {"at": 3, "arrived": 8}, {"at": 4})
    assert part.users["late"].to_pylist() == [2]
    assert part.histories.late.tolist() == [True]


def test_no_events_make_an_empty_part_with_all_columns():
    part = partition(
        rows_of({"at": 0}).slice(0, 0), requests=config(context=("city",)), memory=MEMORY
    )
    full = parted({"at": 0}, context=("city",))
    assert part.requests.schema == full.requests.schema
    assert part.users.schema == full.users.schema
    assert len(part.users) == len(part.requests) == 0


def test_config_is_checked():
    assert config().target == "purchase"
    assert config(target="click").target == "click"
    assert config(validate_from="2011-01-01").validate_from == datetime(2011, 1, 1, tzinfo=UTC)
    for wrong, message in [
        ({"labels": ()}, "at least 1"),
        ({"labels": ("click", "click")}, "distinct actions"),
        ({"labels": ("clik",)}, r"unknown: \['clik'\]"),
        ({"target": "hire"}, "not among the labels"),
        ({"test_from": day(5)}, "order in time"),
        ({"warmup": day(11)}, "order in time"),
    ]:
        with pytest.raises(ValidationError, match=message):
            config(**wrong)


event_rows = st.lists(
    st.fixed_dictionaries(
        {
            "at": st.integers(0, 24 * 25).map(float),
            "item_id": st.sampled_from("abc"),
            "action": st.sampled_from(["view", "click", "purchase", "cancel"]),
            "session_id": st.sampled_from([None, None, "s", "t"]),
            "user_id": st.sampled_from("uv"),
            "wait": st.sampled_from([0, 0, 0, 1, 100]),
        }
    ),
    min_size=1,
    max_size=12,
)


def timed(rows):
    return [
        {**{n: v for n, v in row.items() if n != "wait"}, "arrived": row["at"] + row["wait"]}
        for row in rows
    ]


def by_id(part: Part, before_ms: int):
    return {row["request_id"]: row for row in part.requests.to_pylist() if row["as_of"] < before_ms}


@given(event_rows, event_rows, st.integers(0, 24 * 25))
def test_what_arrives_at_or_after_a_request_changes_nothing_that_it_sees(rows, more, hour):
    """More events, all at or after `hour`: every request before has the same features."""
    later = [{**row, "at": max(row["at"], float(hour))} for row in more]
    for per in ("event", "session"):
        before = parted(*timed(rows), per=per)
        after = parted(*timed(rows + later), per=per)
        cut = DAY_0 + hour * HOUR_MS
        old, new = by_id(before, cut), by_id(after, cut)
        # A later event may add an outcome to a request, never change its sight. It may take an
        # outcome away only where it parts a session that goes by silence, not by name.
        named = all(row["session_id"] for row in rows + later)
        assert old.keys() <= new.keys() or not (named or per == "event")
        for name, request in ((n, r) for n, r in old.items() if n in new):
            for column in ("as_of", "session", "split", "user_features", "user_id"):
                assert new[name][column] == request[column]
            if per == "event":
                assert new[name] == request
            assert set(request["items"]) <= set(new[name]["items"]) or not named


@given(event_rows)
def test_features_are_those_of_the_online_path_byte_for_byte(rows):
    table = events(*timed(rows))
    interests = lambda items: (items % np.uint64(4)).astype(np.uint16)  # noqa: E731
    part = partition(pack(table, ("city",)), requests=config(), memory=MEMORY, interests=interests)
    for request in part.requests.to_pylist():
        state = EMPTY
        for place in np.argsort(np.asarray(table["arrived_at"]), kind="stable"):
            event = table.slice(place, 1)
            arrived = event["arrived_at"].cast(pa.int64())[0].as_py()
            if event["user_id"][0].as_py() == request["user_id"] and arrived < request["as_of"]:
                state = update(state, encode(event, interests), MEMORY.state)
        online = user_features(view(state, now_ms=request["as_of"], spec=MEMORY))
        assert np.asarray(request["user_features"], np.float32).tobytes() == online.tobytes()


@given(event_rows)
def test_a_request_never_sees_its_own_outcome(rows):
    """What a request sees ends before it begins, whatever came of it and whenever it arrived."""
    part = parted(*timed(rows))
    users = part.histories.users.to_pylist()
    for request in part.requests.to_pylist():
        user = users.index(request["user_id"])
        seen = part.histories.seen(user, request["as_of"])
        assert f"{request['request_id']}" not in {f"{key:016x}" for key in seen["event"].tolist()}
        assert (seen["ts"] < request["as_of"]).all()


@given(event_rows)
def test_states_and_lists_are_those_of_the_whole_history(rows):
    part = parted(*timed(rows))
    assert isinstance(part.histories, Histories)
    for place, user in enumerate(part.users.to_pylist()):
        low, high = part.histories.offsets[place : place + 2]
        whole = part.histories.interactions[low:high]
        assert user["num"] == len(whole)
        state = EMPTY
        for one in range(len(whole)):
            state = update(state, whole[one : one + 1], MEMORY.state)
        assert decode(user["state"], MEMORY.state) == state


@given(event_rows, st.randoms())
def test_the_order_of_the_rows_does_not_matter(rows, random):
    table = rows_of(*timed(rows))
    order = list(range(len(table)))
    random.shuffle(order)
    one = partition(table, requests=config(), memory=MEMORY)
    two = partition(table.take(order), requests=config(), memory=MEMORY)
    assert one.users.equals(two.users)
    assert one.rows.combine_chunks().equals(two.rows.combine_chunks())
    assert one.requests.equals(two.requests)
