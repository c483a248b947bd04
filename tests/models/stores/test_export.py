"""What a person is shown of their memory."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from models.config import DAY_MS
from models.events import key64
from models.stores import export
from tests.models.memory.strategies import SPEC
from tests.models.stores.world import HORIZON, NOW, events, ids, mixed


def test_an_export_holds_all_events_facts_and_counts(store):
    table = mixed(range(60))
    late = {"event_id": "late", "user_id": "u1", "ts": NOW - 2 * HORIZON}
    store.apply_many(table)
    store.apply_many(events([late]))
    shown = export(store, "u1", spec=SPEC)
    assert json.loads(json.dumps(shown)) == shown
    own = [row for row in table.to_pylist() if row["user_id"] == "u1"]
    assert sorted(row["event_id"] for row in shown["events"]) == sorted(
        ["late", *(row["event_id"] for row in own)]
    )
    assert shown["events"][0] == {
        "event_id": "late",
        "ts": "2023-10-31T22:13:20+00:00",
        "arrived_at": "2023-10-31T22:13:20+00:00",
        "user_id": "u1",
        "item_id": "i1",
        "action": "view",
    }
    said = [row for row in own if row["action"] == "state"]
    assert len(shown["facts"]) == len(said)
    values = {None if row["fact"] is None else json.loads(row["fact"])["size"] for row in said}
    assert {f["value"] and f["value"]["size"] for f in shown["facts"]} == values
    assert shown["facts"][0]["source"] == "observed"
    months = [c["count"] for c in shown["counts"] if _span(c) == timedelta(days=30)]
    assert sum(months) == len(own) - len(said)
    assert (shown["earlier_events"], shown["forgotten"]) == ([], {"num_items": 0})


def _span(count: dict[str, Any]) -> timedelta:
    return datetime.fromisoformat(count["until"]) - datetime.fromisoformat(count["from"])


def test_events_of_a_snapshot_are_shown_by_key_or_by_name(store, other, tmp_path):
    store.apply_many(events([{"event_id": "a", "item_id": "tea", "session_id": "s", "value": 2.0}]))
    store.snapshot(tmp_path / "s.parquet")
    other.restore(tmp_path / "s.parquet")
    other.apply_many(events([{"event_id": "b"}]))
    names = [f"interest {n}" for n in range(SPEC.num_interests)]
    shown = export(other, "ann", spec=SPEC, items={key64("tea"): "tea"}, interests=names)
    assert ids(other.history("ann")) == [row["event_id"] for row in shown["events"]] == ["b"]
    (earlier,) = shown["earlier_events"]
    assert earlier == {
        "ts": "2023-11-14T21:13:20+00:00",
        "action": "view",
        "item_id": "tea",
        "session": f"key {key64('s'):016x}",
        "interest": names[key64("tea") % SPEC.num_interests],
        "value": 2.0,
    }
    unnamed = export(other, "ann", spec=SPEC)["earlier_events"]
    assert unnamed[0]["item_id"] == f"key {key64('tea'):016x}"


def test_of_what_was_forgotten_only_the_bounds_are_shown(store):
    store.apply_many(mixed(range(60)))
    store.forget("u1", item_id="i1")
    assert export(store, "u1", spec=SPEC)["forgotten"] == {"num_items": 1}
    store.forget("u1", before_ms=NOW - DAY_MS)
    assert export(store, "u1", spec=SPEC)["forgotten"] == {
        "until": "2023-11-13T22:13:19.999000+00:00",
        "num_items": 1,
    }


@pytest.mark.parametrize("erase", [True, False])
def test_an_export_of_nobody_is_empty(store, erase):
    store.apply_many(mixed(range(60)))
    if erase:
        store.delete("u1")
    shown = export(store, "u1" if erase else "nobody", spec=SPEC)
    forgotten = {"until": "2023-11-14T22:13:20+00:00"} if erase else {}
    assert shown == {
        "user_id": "u1" if erase else "nobody",
        "events": [],
        "earlier_events": [],
        "facts": [],
        "counts": [],
        "forgotten": {**forgotten, "num_items": 0},
    }
